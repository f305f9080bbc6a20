"""One group's quantization problem, and the error that a way of storing its weight makes.

Every weight and input here is in rows: weights (N, taps, width), inputs (S, taps, width). Products flatten the last two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.decompose import LowRank, low_rank
from aquatint.compiler.formats import NumberFormat, format_named
from aquatint.compiler.numerics import total
from aquatint.compiler.plan import Group
from aquatint.compiler.program import Program, Site
from aquatint.compiler.statistics import Statistics


@dataclass(frozen=True)
class Problem:
    """One group's quantization problem: weights stacked over siblings, sample rows, and the formats of both."""

    rows: Tensor
    weight: Tensor
    weights_format: NumberFormat
    inputs_format: NumberFormat | None
    rank: int

    def smoothed(self, scale: Tensor) -> Problem:
        """The same problem after x / scale and W * scale, scale (width,)."""
        return Problem(self.rows / scale, self.weight * scale, self.weights_format, self.inputs_format, self.rank)

    @property
    def outputs(self) -> Tensor:
        """The exact outputs (S, N)."""
        return self.rows.flatten(1) @ self.weight.flatten(1).T

    def quantized_rows(self) -> Tensor:
        return self.inputs_format.roundtrip(self.rows) if self.inputs_format else self.rows

    def error(self, residual: Tensor, quantized: Tensor, seen: Tensor | None = None) -> float:
        """Squared output error when `residual` (N, taps, width) is stored as `quantized` and the branch carries the rest.

        The branch reads the unquantized input, so it makes no error: |x Rᵀ - Q(x) Q(R)ᵀ|², SVDQuant equation 7.
        """
        seen = self.quantized_rows() if seen is None else seen
        exact = self.rows.flatten(1) @ residual.flatten(1).T
        return total((exact - seen.flatten(1) @ quantized.flatten(1).T).square())

    def split(self, start: Tensor | None = None, gram: Tensor | None = None, steps: int = 2) -> tuple[LowRank | None, Tensor]:
        """(branch, residual): the weight less its leading part, or the weight itself at rank 0."""
        flat = self.weight.flatten(1)
        rank = min(self.rank, *flat.shape)
        if rank == 0:
            return None, self.weight
        branch = low_rank(flat, rank, start, gram, steps)
        return branch, (flat - branch.up @ branch.down).view_as(self.weight)


def problem_of(program: Program, group: Group, seen: Statistics) -> Problem:
    """The group's weights, stacked, and its sample rows in the formats of its treatment."""

    weight = torch.cat([site.rows(program.weights[site.weight]).float() for site in group.sites])
    inputs = group.treatment.activations
    formats = format_named(group.treatment.weights), format_named(inputs) if inputs else None
    return Problem(seen.rows, weight, *formats, group.treatment.rank)


def split_rows(group: Group, stacked: Tensor) -> list[tuple[Site, Tensor]]:
    """A tensor stacked over the group's outputs, cut back to its sites."""
    parts = stacked.split([site.outputs for site in group.sites])
    return list(zip(group.sites, parts, strict=True))

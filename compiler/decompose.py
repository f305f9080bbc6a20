"""The rank-r split of a weight by subspace iteration, and the error that a quantized site makes.

Every weight and input here is in rows: weights (N, taps, width), inputs (S, taps, width). Products flatten the last two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.formats import NumberFormat
from aquatint.compiler.numerics import single_thread, total

EXTRA = 8  # directions carried beyond the rank, so that the last kept one converges (Halko et al. 2011, section 4.2)


@dataclass(frozen=True)
class LowRank:
    """up (N, r) and down (r, K), whose product is the branch; basis (K, r + EXTRA) starts the next search warm."""

    up: Tensor
    down: Tensor
    basis: Tensor


def low_rank(weight: Tensor, rank: int, start: Tensor | None = None, gram: Tensor | None = None, steps: int = 2) -> LowRank:
    """The leading rank-r part of `weight` (N, K), by block subspace iteration on WᵀW (Golub & Van Loan, 8.2.4).

    start  a basis (K, r + EXTRA) to begin with; without it, a fixed random one and six more steps
    gram   WᵀW (K, K) where it is known: an iteration then costs K² and not N K
    """
    if start is None:
        width = min(rank + EXTRA, *weight.shape)
        start = torch.randn(weight.shape[1], width, generator=torch.Generator().manual_seed(0))
        steps += 6
    apply: Callable[[Tensor], Tensor] = (lambda v: gram @ v) if gram is not None else (lambda v: weight.T @ (weight @ v))
    basis = start
    for _ in range(steps):
        basis = _orthonormal(apply(basis))
    image = weight @ basis
    with single_thread():  # Rayleigh-Ritz: turn the basis so that its first columns carry most
        _, turn = torch.linalg.eigh((image.T @ image).double())
    basis = basis @ turn.flip(1).to(basis.dtype)
    down = basis[:, :rank].T.contiguous()
    return LowRank(weight @ down.T, down, basis)


def _orthonormal(columns: Tensor) -> Tensor:
    with single_thread():
        return torch.linalg.qr(columns)[0]


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

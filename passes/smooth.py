"""Move outliers from a site's input into its weight, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aquatint.compiler.edit import insert_after, new_weight
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.plan import Group, input_of
from aquatint.compiler.problem import Problem, problem_of
from aquatint.compiler.program import Program
from aquatint.compiler.weights import Derived
from aquatint.runtime.ops import operator_named


@dataclass(frozen=True)
class Smooth:
    """Smoothing searched with the low-rank branch and both quantizers in the loop (SmoothQuant; SVDQuant section 4.1).

    Before:  %y = aten::linear.default(%x, @to_q.weight, @to_q.bias)
    After:   %m = aten::mul.Tensor(%x, @to_q.smooth)
             %y = aten::linear.default(%m, @to_q.weight, @to_q.bias)      # weight times 1 / smooth

    1. s = max|x|^a / max|w|^b by channel, for (a, b) = (0, 0), (i/grid, 0), (i/grid, 1 - i/grid): 2 grid - 1 candidates.
    2. Each is judged by the squared output error on `rows` sample rows, with the branch split off and both sides rounded.
    3. Siblings on one input share s. A channel whose span is 0 or not finite keeps s = 1.
    Leaves alone: groups whose input is not quantized.
    """

    grid: int = 20
    rows: int = 512
    name: ClassVar[str] = "smooth"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.grid < 1 or self.rows < 1:
            raise RecipeError(f"smooth needs a grid and rows of at least 1, not {self.grid} and {self.rows}")

    def run(self, program: Program, context: Context) -> Report:
        chosen = [g for g in context.groups(program) if g.treatment.activations]
        found: dict[str, dict[str, object]] = {}
        scales: list[tuple[Group, Tensor]] = []
        for group, seen in context.sweep("smooth", program, chosen, self.rows):
            (alpha, beta), scale, gain = self._search(problem_of(program, group, seen), seen.largest)
            found |= {site.name: {"alpha": alpha, "beta": beta, "smoothing gain": gain} for site in group.sites}
            if (alpha, beta) != (0.0, 0.0):
                scales.append((group, scale))
        for group, scale in scales:
            _apply(program, group, scale)
        return Report(self.name, found)

    def candidates(self) -> list[tuple[float, float]]:
        steps = [i / self.grid for i in range(1, self.grid)]
        return [(0.0, 0.0), *((a, 0.0) for a in steps), *((a, 1 - a) for a in steps)]

    def _search(self, problem: Problem, largest: Tensor) -> tuple[tuple[float, float], Tensor, float]:
        """The best (a, b), its scale, and its error relative to no smoothing."""
        flat = problem.weight.flatten(1)
        gram = flat.T @ flat if problem.rank and flat.shape[0] > flat.shape[1] else None
        spans = largest, problem.weight.abs().amax((0, 1))
        best, plain, basis = None, None, None
        for alpha, beta in self.candidates():
            scale = smoothing(*spans, alpha, beta)
            trial = problem.smoothed(scale)
            tiled = scale.repeat(problem.weight.shape[1])
            scaled_gram = None if gram is None else gram * tiled * tiled.unsqueeze(1)
            branch, residual = trial.split(basis, scaled_gram)
            basis = branch.basis if branch else None
            error = trial.error(residual, trial.weights_format.roundtrip(residual))
            plain = error if plain is None else plain
            if best is None or error < best[0]:
                best = (error, (alpha, beta), scale)
        assert best is not None
        assert plain is not None
        return best[1], best[2], best[0] / plain if plain else 1.0


def smoothing(inputs: Tensor, weights: Tensor, alpha: float, beta: float) -> Tensor:
    """s (width,) from the spans of inputs and weights; its inverse is a bfloat16 number, so that it is stored small."""
    scale = inputs.pow(alpha) / weights.pow(beta)
    inverse = scale.reciprocal().bfloat16().float()
    usable = (inputs > 0) & (weights > 0) & inverse.isfinite() & (inverse > 0)
    return torch.where(usable, inverse, torch.ones_like(inverse)).reciprocal()


def _apply(program: Program, group: Group, scale: Tensor) -> None:
    dtype = program.weights[group.sites[0].weight].dtype
    inverse = scale.reciprocal().bfloat16().to(dtype)
    shape = (-1,) if group.sites[0].kind == "linear" else (-1, 1, 1)
    with insert_after(program, group.source):
        vector = new_weight(program, f"{group.name}.smooth", inverse.reshape(shape))
    with program.graph.inserting_after(vector):
        smoothed = program.graph.call_function(operator_named("aten::mul.Tensor"), (group.source, vector))
    for site in group.sites:
        program.weights[site.weight] = Derived(program.weights[site.weight], factor=scale.reshape(shape))
        node = program.node_of(site)
        assert input_of(node) is group.source
        node.update_arg(0, smoothed)

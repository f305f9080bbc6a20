"""What each site costs on this machine, as it was and compressed: measured in the two programs, at their own shapes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from aquatint.compiler.edit import is_call
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.execution import Execution, Lower
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Recipe, Rule
from aquatint.compiler.stopwatch import stopwatch

PRODUCTS = ("aquatint::gemm", "aquatint::conv2d")


@dataclass(frozen=True)
class Cost:
    """Seconds of a site's product in a call: `before`; and `after`, with its share of the quantize that serves it."""

    site: str
    before: float
    after: float


def site_costs(
    original: Program,
    final: Program,
    lower: Lower,
    inputs: Sequence[Tensor],
    repeat: int = 9,
    device: torch.device | None = None,
) -> list[Cost]:
    """Medians over `repeat` runs of both programs in turn, on `device`; the sites that are still as they were are left out.

    The compressed product does more than the one before it: what was taken into its epilogue, and what into the quantize.
    """
    timed = [stopwatch(Execution(p.graph, p.weights, lower, device), inputs) for p in (original, final)]
    runs = [[seconds(*inputs) for seconds in timed] for _ in range(repeat)]
    before, after = ({node: statistics.median(run[i][node] for run in runs) for node in runs[0][i]} for i in (0, 1))
    products = _products(final)
    readers = Counter(quantize for _, quantize in products.values())
    found = []
    for site in original.sites:
        if site.name not in products:
            continue
        product, quantize = products[site.name]
        share = after.get(quantize, 0.0) / readers[quantize] if quantize else 0.0
        found.append(Cost(site.name, before[original.node_of(site)], after[product] + share))
    return found


def _products(program: Program) -> dict[str, tuple[fx.Node, fx.Node | None]]:
    """The product of each compressed site, and the quantize that it reads, if any."""
    found: dict[str, tuple[fx.Node, fx.Node | None]] = {}
    for node in program.graph.nodes:
        if any(is_call(node, name) for name in PRODUCTS):
            codes, weight = node.args[0], str(node.args[2].target)
            quantize = codes.args[0] if node.args[1] is not None else None
            found[weight.removesuffix(".codes")] = node, quantize
    return found


def kept_where_slower(recipe: Recipe, costs: Sequence[Cost], tolerance: float = 1.1) -> Recipe:
    """`recipe` with a rule for each site that compression made slower by more than `tolerance`: it stays as it was.

    Raises RecipeError where that is every site.
    """
    slower = [c for c in costs if c.after > tolerance * c.before]
    if costs and len(slower) == len(costs):
        raise RecipeError(
            f"recipe {recipe.name} makes every site slower on this machine ({len(costs)} of them, all too small to gain): "
            "compress without fastest, for the memory alone, or leave the model as it is"
        )
    rules = (
        Rule(c.site, None, f"slower on this machine: {c.after * 1e3:.3f} ms compressed, {c.before * 1e3:.3f} ms as it is")
        for c in slower
    )
    return recipe.with_rules(*rules)

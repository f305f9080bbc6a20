"""What a site costs: every compressed site is measured, and one that became slower stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import aquatint
from aquatint.compiler.costs import Cost, kept_where_slower, site_costs
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.execution import Execution
from aquatint.compiler.pipeline import run_recipe
from aquatint.compiler.recipe import Treatment
from aquatint.compiler.stopwatch import stopwatch
from aquatint.passes.recipes import SVDQUANT, recipe_named
from aquatint.runtime import target_named
from tests.programs import attention_like, context_for, convolutional, image_inputs, token_inputs


def test_every_compressed_site_is_measured() -> None:
    for program, calls in ((attention_like(), token_inputs()), (convolutional(), image_inputs())):
        names = [s.name for s in program.sites]
        context = context_for(program, calls, Treatment("int4-g64", "int8", 8), names[0])
        final, _ = run_recipe(program, SVDQUANT, context)
        costs = site_costs(program, final, target_named("cpu").lower, calls[0], repeat=3)
        assert [c.site for c in costs] == names[1:], "the first is kept as it was"
        assert all(c.before > 0 and c.after > 0 for c in costs)


def test_elsewhere_each_step_is_timed() -> None:
    program = attention_like()
    execution = Execution(program.graph, program.weights, device=torch.device("meta"))
    taken = stopwatch(execution, token_inputs()[0])(*token_inputs()[0])
    assert list(taken) == execution.nodes
    assert all(seconds > 0 for seconds in taken.values())


def test_what_became_slower_is_kept() -> None:
    recipe = recipe_named("svdq-w4a8-r32")
    costs = [Cost("a", 1.0, 1.05), Cost("b", 1.0, 1.5), Cost("c", 2.0, 0.5)]
    chosen = kept_where_slower(recipe, costs)
    (rule,) = chosen.rules[len(recipe.rules) :]
    assert (rule.match, rule.treatment) == ("b", None)
    assert "1500.000 ms compressed, 1000.000 ms as it is" in rule.reason
    assert kept_where_slower(recipe, costs[:1]) == recipe


def test_where_nothing_gains() -> None:
    with pytest.raises(RecipeError, match=r"makes every site slower on this machine \(1 of them.*without fastest"):
        kept_where_slower(recipe_named("svdq-w4a8-r32"), [Cost("a", 1.0, 1.5)])


def test_optimize_for_this_machine() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 2048), nn.GELU(), nn.Linear(2048, 64))
    x = torch.randn(2, 100, 64)
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(x), fastest=True)
    (row,) = [r for r in small.report["sites"] if "ms after" in r]
    assert (row["treatment"] is None) == row["reason"].startswith("slower on this machine")
    assert (small(x) - model(x)).norm() < 0.2 * model(x).norm()

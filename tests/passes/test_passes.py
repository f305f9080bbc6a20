"""Each pass by its promise: what it does to a small program, what it leaves alone, and that it helps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.errors import PassError, RecipeError
from aquatint.compiler.formats import Encoded, format_named
from aquatint.compiler.gptq import gptq, shrunk
from aquatint.compiler.pipeline import run_pass, run_recipe
from aquatint.compiler.problem import Problem
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Pass, Treatment, parse_spec, spec
from aquatint.compiler.text import text
from aquatint.passes.absorb import Absorb
from aquatint.passes.canonicalize import Canonicalize
from aquatint.passes.epilogue import Epilogue
from aquatint.passes.fuse import Fuse
from aquatint.passes.lowrank import LowRankBranch
from aquatint.passes.observe import Observe, best_range
from aquatint.passes.quantize import Quantize
from aquatint.passes.recipes import PASSES, PRESETS
from aquatint.passes.smooth import Smooth
from tests.programs import (
    apply_and_check,
    attention_like,
    context_for,
    convolutional,
    image_inputs,
    normed_block,
    program_of,
    random_programs,
    token_inputs,
)

W4A8 = Treatment("int4-g64", "int8", 8)
W4A4 = Treatment("int4-g64", "int4-g64", 8)
W4A16 = Treatment("int4-g64")
NVFP4 = Treatment("nvfp4", "nvfp4", 4)
STEPS: tuple[Pass, ...] = (
    Canonicalize(), Smooth(grid=4, rows=32), LowRankBranch(3, 32), Quantize(rows=32), Fuse(), Epilogue(), Absorb(),
    Observe(2),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(random_programs(), st.sampled_from([W4A8, W4A4, W4A16, NVFP4, Treatment("int8", "int8")]), st.data())
def test_every_pass_on_random_programs(program: Program, treatment: Treatment, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from([s.name for s in program.sites]))) if program.sites else set()
    context = context_for(program, token_inputs(), treatment, *kept)
    for step in STEPS:
        program, _ = apply_and_check(program, step, context)


@pytest.mark.parametrize("treatment", [W4A8, W4A4, W4A16, NVFP4], ids=str)
def test_convolutions(treatment: Treatment) -> None:
    program = convolutional()
    original = program
    context = context_for(program, image_inputs(), treatment)
    for step in STEPS:
        program, report = apply_and_check(program, step, context)
        if step.name == "quantize":
            assert set(report.sites) == {"conv", "point"}
    exact, got = original(*image_inputs()[0])[0], program(*image_inputs()[0])[0]
    assert (got - exact).norm() < 0.3 * exact.norm()
    assert ("aquatint::conv2d" in text(program)) == (treatment.activations is not None)
    if treatment.activations:
        assert "aten::conv2d" not in text(program), "the branch is in our operators"


def test_what_stands_before_a_quantize_goes_into_it() -> None:
    program = normed_block()
    result, _ = run_recipe(program, STEPS, context_for(program, image_inputs(), W4A8))
    shown = text(result)
    assert shown.count("aquatint::group_affine") == 2
    assert shown.count("activation='silu'") == 2
    assert "aten::group_norm" not in shown
    assert "aten::silu" not in shown
    exact, got = program(*image_inputs()[0])[0], result(*image_inputs()[0])[0]
    assert (got - exact).norm() < 0.1 * exact.norm()


def test_ranges_of_convolutions_are_observed() -> None:
    """Of the input as it is before smoothing, and of the result before bias' neighbours: activation, gate and residual."""
    program = convolutional()
    result, _ = run_recipe(program, STEPS, context_for(program, image_inputs(), W4A8))
    assert set(result.ranges) == {"conv", "point"}
    (low, high), (least, greatest) = result.ranges["conv"]
    calls = image_inputs()
    x = torch.cat([call[0].flatten() for call in calls])
    weight, bias = program.weights["conv.weight"], program.weights["conv.bias"]
    y = torch.cat([torch.nn.functional.conv2d(call[0], weight, bias, 2, 1).flatten() for call in calls])
    for (a, b), values in (((low, high), x), ((least, greatest), y)):
        assert 0.5 * values.min() > a > 1.1 * values.min()
        assert 0.5 * values.max() < b < 1.1 * values.max()
    assert not run_recipe(attention_like(), STEPS, context_for(attention_like(), token_inputs(), W4A8))[0].ranges


def test_a_range_leaves_out_what_would_widen_its_steps() -> None:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    low, high = best_range(values)
    assert low < -2.5
    assert high > 2.5
    with_outlier = torch.cat([values, torch.tensor([8.0])])
    assert best_range(with_outlier)[1] < 7
    assert best_range(torch.zeros(10)) == (0, 0)
    assert best_range(values.abs())[0] == 0


def test_an_adaptive_norm_goes_into_its_quantize() -> None:
    lines = ["%n = aten::layer_norm.default(%x, [64], None, None, 1e-06)", "%v = aten::mean.dim(%x, [1], True)",
             "%m = aten::mul.Tensor(%n, %v)", "%a = aten::add.Tensor(%m, %v)",
             "%y = aten::linear.default(%a, @l.weight)", "return [%y]"]  # fmt: skip
    program = program_of(lines, {"l.weight": torch.randn(64, 64)})
    result, _ = run_recipe(program, STEPS, context_for(program, token_inputs(), W4A8))
    assert "aten::layer_norm" not in text(result)
    assert "%v, %v, format='int8', axis=-1, eps=1e-06)" in text(result)


def test_siblings_share_and_the_epilogue_takes_all() -> None:
    program = attention_like()
    context = context_for(program, token_inputs(), W4A8)
    result, _ = run_recipe(program, STEPS, context)
    shown = text(result)
    assert shown.count("aquatint::quantize") == 2
    assert shown.count("aquatint::gemm") == 3
    assert "activation='gelu_tanh'" in shown
    assert "aten::linear" not in shown
    assert "residual=%x" in shown
    assert "aten::add" not in shown
    assert {w for w in result.weights if w.endswith(".down")} == {"to_q.down", "out.down"}


def test_smoothing_and_the_branch_lower_the_error() -> None:
    program = attention_like()
    context = context_for(program, token_inputs(calls=4), W4A4)
    errors = {}
    for name, steps in {"plain": (Quantize("rtn"),), "branch": (LowRankBranch(), Quantize("rtn")), "both": STEPS[1:4]}.items():
        _, reports = run_recipe(program, steps, context)
        errors[name] = sum(row["squared error"] for row in reports[-1].sites.values())
    assert errors["both"] < errors["branch"] < errors["plain"]


def test_gptq_lowers_the_error_on_correlated_inputs() -> None:
    program = attention_like()
    random = torch.Generator().manual_seed(3)
    mix = torch.randn(8, 64, generator=random)
    calls = tuple((torch.randn(2, 40, 8, generator=random) @ mix,) for _ in range(4))
    context = context_for(program, calls, W4A16)
    errors = {m: run_pass(program, Quantize(m), context)[1].sites["to_q"]["squared error"] for m in ("rtn", "gptq")}
    assert errors["gptq"] < 0.5 * errors["rtn"]


def test_gptq_does_not_learn_chance() -> None:
    """From fewer rows than channels it must not become worse on rows that it did not see than plain rounding."""
    random = torch.Generator().manual_seed(0)
    weight, number = torch.randn(64, 1, 256, generator=random), format_named("int4-g64")
    seen, unseen = torch.randn(200, 256, generator=random), torch.randn(500, 256, generator=random)

    def error(stored: Encoded) -> float:
        return (unseen @ (number.decode(*stored) - weight).flatten(1).T).square().sum().item()

    gram = seen.T @ seen / len(seen)
    plain = error(number.encode(weight))
    assert error(gptq(weight, shrunk(gram, len(seen)), number)) < 1.1 * plain
    assert error(gptq(weight, gram, number)) > 1.2 * plain, "without shrinkage it does"
    assert shrunk(gram, 512) is gram


def test_smoothing_finds_an_outlier_channel() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 1, 64, generator=random)
    rows[..., 5] *= 60
    problem = Problem(rows, torch.randn(64, 1, 64, generator=random), format_named("int4-g64"), format_named("int4-g64"), 4)
    (alpha, _), scale, gain = Smooth(grid=10)._search(problem, rows.abs().amax((0, 1)))
    assert alpha > 0
    assert scale[5] > 3 * scale.median()
    assert gain < 0.6


def test_candidates_of_the_reference_recipe() -> None:
    pairs = Smooth().candidates()
    assert len(pairs) == 39
    assert pairs[0] == (0.0, 0.0)
    assert (0.5, 0.0) in pairs
    assert (0.25, 0.75) in pairs


def test_equal_nodes_become_one() -> None:
    lines = ["%a = aten::silu.default(%x)", "%b = aten::silu.default(%x)", "%c = aten::to.dtype(%b, dtype('float32'))",
             "%y = aten::add.Tensor(%a, %c)", "return [%y]"]  # fmt: skip
    program = program_of(lines, {})
    changed, _ = apply_and_check(program, Canonicalize(), context_for(program, token_inputs(), W4A8))
    assert "%y = aten::add.Tensor(%a, %a)" in text(changed)
    assert "aten::to" not in text(changed)


def test_what_does_nothing_goes() -> None:
    lines = ["%s = aten::slice.Tensor(%x, 0, 0, 9223372036854775807)", "%d = aten::div.Tensor(%s, 1.0)",
             "%t = aten::transpose.int(%d, 1, 2)", "%u = aten::transpose.int(%t, 2, 1)", "%p = aten::slice.Tensor(%u, 1, 1, 9)",
             "%r = aten::arange.default(64, dtype=dtype('float32'))", "%e = aten::exp.default(%r)",
             "%y = aten::add.Tensor(%p, %e)", "return [%y]"]  # fmt: skip
    program = program_of(lines, {})
    changed, report = apply_and_check(program, Canonicalize(), context_for(program, token_inputs(), W4A8))
    assert "%p = aten::slice.Tensor(%x, 1, 1, 9)" in text(changed), "a slice of a part stays"
    assert "%y = aten::add.Tensor(%p, @constants.e)" in text(changed)
    assert len([n for n in changed.graph.nodes if n.op == "call_function"]) == 2
    assert report.sites[""] == {"nodes dropped": 3, "nodes merged": 0, "constants": 1}


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        (["%m = aten::mul.Tensor(%v, %o)", "%y = aten::add.Tensor(%m, %x)", "return [%y]"], "gate=%v, residual=%x)"),
        (["%y = aten::add.Tensor(%x, %o)", "return [%y]"], "residual=%x)"),
        (["%y = aten::add.Tensor(%o, %v)", "return [%y]"], "residual=%v)"),
        (["%r = aten::exp.default(%x)", "%y = aten::mul.Tensor(%o, %r)", "return [%y]"], "gate=%r)"),
        (["%a = aten::add.Tensor(%o, %x)", "%y = aten::mul.Tensor(%a, %v)", "return [%y]"], "residual=%x)"),
        (["%y = aten::add.Tensor(%o, %x)", "return [%y, %o]"], ""),
        (["%u = aten::unsqueeze.default(%x, 0)", "%y = aten::add.Tensor(%o, %u)", "return [%y]"], ""),
        (["%y = aten::add.Tensor(%o, 1)", "return [%y]"], ""),
    ],
)
def test_gate_and_residual_go_into_the_product(lines: list[str], taken: str) -> None:
    head = ["%v = aten::mean.dim(%x, [1], True)", "%o = aten::linear.default(%x, @l.weight)"]
    program = program_of([*head, *lines], {"l.weight": torch.randn(64, 64)})
    context = context_for(program, token_inputs(), W4A8)
    fused, _ = run_recipe(program, (Quantize("rtn"), Fuse()), context)
    changed, _ = apply_and_check(fused, Epilogue(), context)
    assert (taken in text(changed)) if taken else ("gate" not in text(changed) and "residual" not in text(changed))


def test_an_activation_behind_a_residual_stays_there() -> None:
    """The kernel does it before: so not even a second run of the pass may take it."""
    lines = ["%o = aten::linear.default(%x, @l.weight)", "%a = aten::add.Tensor(%o, %x)", "%y = aten::silu.default(%a)",
             "return [%y]"]  # fmt: skip
    program = program_of(lines, {"l.weight": torch.randn(64, 64)})
    context = context_for(program, token_inputs(), W4A8)
    changed, _ = run_recipe(program, (Quantize("rtn"), Fuse(), Epilogue()), context)
    again, _ = apply_and_check(changed, Epilogue(), context)
    assert "residual=%x" in text(again)
    assert "aten::silu" in text(again)


def test_a_pass_that_fails_leaves_the_program() -> None:
    program = attention_like()
    before = text(program)
    broken = tuple((torch.full((2, 9, 64), torch.nan),) for _ in range(2))
    with pytest.raises(PassError, match=r"pass quantize\{method=gptq rows=512\} failed: .*NaN in the inputs"):
        run_pass(program, Quantize(), context_for(program, broken, W4A16))
    assert text(program) == before


@pytest.mark.parametrize("recipe", PRESETS.values(), ids=lambda r: r.name)
def test_passes_print_and_parse(recipe) -> None:
    for step in recipe.passes:
        assert parse_spec(spec(step), PASSES) == step
    assert type(recipe).from_json(recipe.to_json(), PASSES) == recipe


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sharpen", "no pass 'sharpen'"),
        ("smooth{colour=3}", "no option 'colour'; it has: grid, rows"),
        ("smooth{grid=fine}", "smooth.grid is 'fine'"),
        ("lowrank{bits=4}", "8 or 16 bits, not in 4"),
        ("quantize{method=magic}", "rtn and gptq, not 'magic'"),
    ],
)
def test_a_wrong_pass_is_explained(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_spec(source, PASSES)

"""Where the low-rank branch may read 8 bits."""

from __future__ import annotations

import pytest

from aquatint.compiler.edit import is_call
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.pipeline import Context, run_pass, run_recipe
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Treatment
from aquatint.passes.branch import Branch
from aquatint.passes.canonicalize import Canonicalize
from aquatint.passes.fuse import Fuse
from aquatint.passes.lowrank import LowRankBranch
from aquatint.passes.quantize import Quantize
from aquatint.passes.recipes import PRESETS
from tests.onnx.common import decibel
from tests.programs import attention_like, context_for, token_inputs


def split(treatment: Treatment) -> tuple[Program, Context]:
    """An attention whose sites have what `treatment` gives them, fused."""
    context = context_for(attention_like(), token_inputs(), treatment)
    steps = Canonicalize(), LowRankBranch(1), Quantize("rtn"), Fuse()
    return run_recipe(attention_like(), steps, context)[0], context


def branches(program: Program) -> list[object]:
    return [n.kwargs.get("branch") for n in program.graph.nodes if is_call(n, "aquatint::quantize")]


@pytest.mark.parametrize(("inputs", "least"), [("int8", 35), ("int4-g64", 20)])  # of 4 bits more codes turn in what follows
def test_the_way_down_may_read_8_bits(inputs: str, least: int) -> None:
    program, context = split(Treatment("int4-g64", inputs, 8))
    small, report = run_pass(program, Branch(), context)
    assert set(branches(program)) == {None}
    assert set(branches(small)) == {"int8"}
    assert report.sites[""]["branches"] == len(branches(small)) > 0
    x = token_inputs()[0]
    assert least < decibel([small(*x)[0]], [program(*x)[0]]) < 70


@pytest.mark.parametrize("treatment", [Treatment("int4-g64", "int8", 0), Treatment("nvfp4", "nvfp4", 8)])
def test_what_has_no_branch_or_floats_is_left_alone(treatment: Treatment) -> None:
    program, context = split(treatment)
    small, report = run_pass(program, Branch(), context)
    assert set(branches(small)) == {None}
    assert report.sites[""]["branches"] == 0


def test_presets_let_it_and_others_are_refused() -> None:
    assert all(Branch() in PRESETS[name].passes for name in PRESETS if name.startswith("svdq"))
    with pytest.raises(RecipeError, match="no low-rank branch reads 'int4'; known: int8"):
        Branch("int4")

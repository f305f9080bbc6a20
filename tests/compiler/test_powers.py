"""Numbers in 8 bits with a power of two for each slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from aquatint.compiler.artifact import load, save
from aquatint.compiler.powers import Scaled, rounded, scaled
from aquatint.compiler.program import BRANCH, smallest
from aquatint.compression import compress
from aquatint.passes.recipes import recipe_named
from tests.programs import attention_like, context_for, token_inputs


@given(st.integers(0, 999), st.integers(0, 1), st.integers(-60, 60))
def test_what_is_rounded_fits_bytes_and_bfloat16(seed: int, axis: int, size: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 5, generator=random) * 2.0**size
    values[2] = 0
    near = rounded(values, axis)
    largest = values.abs().amax(1 - axis, keepdim=True)
    assert ((near - values).abs() <= largest / 127 + 1e-30).all()
    assert torch.equal(near.bfloat16().float(), near)
    assert torch.equal(rounded(near, axis), near)
    found = scaled(near, axis)
    assert found is not None
    assert torch.equal(found.read(), near)


def test_other_numbers_are_left_alone() -> None:
    assert scaled(torch.tensor([[1.0, 1.0 / 3.0]]), 0) is None
    assert scaled(torch.tensor([[float("nan"), 1.0]]), 0) is None


def test_a_branch_takes_a_byte_a_number(tmp_path: Path) -> None:
    source, recipe = attention_like(), recipe_named("svdq-w4a8-r32")
    rules = recipe.rules[:1]  # roles would keep everything of so small a program
    calibration = context_for(source, token_inputs(), rules[0].treatment).calibration  # type: ignore[arg-type]
    program, report = compress(source, replace(recipe, rules=rules), calibration)
    branch = {n: w for n, w in program.weights.items() if n.endswith(BRANCH)}
    assert branch
    for name, weight in branch.items():
        found = smallest(name, weight)
        assert isinstance(found, Scaled)
        assert found.codes.nbytes == weight.numel()
    save(tmp_path / "small.aq", program, recipe.to_json(), report)
    again = load(tmp_path / "small.aq").program
    for name, weight in program.weights.items():
        assert torch.equal(again.weights[name], weight)
        assert again.weights[name].dtype == weight.dtype
    assert again.nbytes() == program.nbytes()

"""Whole models on the target `cuda`, its kernels emulated: each of our operators has one, and the result is what it means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aquatint
from aquatint.runtime import target_named
from aquatint.runtime.cuda.launch import Family
from aquatint.runtime.cuda.sm80 import SM75, SM80, SM120
from aquatint.runtime.cuda.sm90 import SM90
from aquatint.runtime.ops import name_of
from tests.runtime.emulated import BUILT, emulated, half
from tests.zoo import build, tensors_of

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not BUILT.is_dir(), reason="`make emulated` was not run"),
]


def kernels_of(small: aquatint.CompressedModule) -> set[str | None]:
    return {name_of(node.target) for run in small._runs for execution in run.executions for node in execution.kernels}


def cast(value: Any, numbers: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: cast(each, numbers) for key, each in value.items()}
    return value.to(numbers) if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize(
    ("name", "recipe", "family"),
    [
        ("dit", "svdq-w4a8-r32-whole", SM90), ("dit", "svdq-w4a4-r32", SM80), ("dit", "nvfp4-r32", SM120),
        ("flux", "svdq-w4a8-r32-whole", SM80), ("unet2d", "w8a8", SM75), ("sd", "svdq-w4a8-r32-whole", SM80),
        ("dit", "svdq-w4a4-r32", SM75), ("flux", "svdq-w4a8-r32-whole", half(SM90)),
        ("wan", "svdq-w4a8-r32-whole", SM80),
    ],
    ids=lambda value: getattr(value, "name", value),
)  # fmt: skip
def test_a_model_in_sixteen_bits(name: str, recipe: str, family: Family) -> None:
    model, (args, kwargs) = build(name)
    numbers = family.numbers[0]
    args, kwargs = tuple(cast(value, numbers) for value in args), cast(kwargs, numbers)
    small = aquatint.optimize(model.to(numbers), recipe, calibrate=lambda m: m(*args, **kwargs))
    expected = tensors_of(small.on(target_named("reference"))(*args, **kwargs))
    native = small.on(emulated(family))
    found = tensors_of(native(*args, **kwargs))
    assert native.without_kernel() == []
    assert ("aquatint::rotary" in kernels_of(native)) == (name == "wan")
    assert ("aquatint::gemm_rotary" in kernels_of(native)) == (name == "flux")
    assert any(n.kwargs.get("active") is not None for r in native._runs for e in r.executions for n in e.kernels) == (
        name == "sd"
    )
    for own, meaning in zip(found, expected, strict=True):
        assert (own.float() - meaning.float()).norm() < 0.03 * meaning.float().norm()
    for again, first in zip(tensors_of(native(*args, **kwargs)), found, strict=True):
        assert torch.equal(again, first)


def test_a_unet_with_activations_of_four_bits() -> None:
    """Codes of 15 steps turn by a last digit: as far from the model as its meaning is."""
    model, (args, _) = build("unet2d")
    args = tuple(cast(value, torch.bfloat16) for value in args)
    small = aquatint.optimize(model.to(torch.bfloat16), "svdq-w4a4-r32", calibrate=lambda m: m(*args))
    native, meaning = small.on(emulated(SM80)), small.on(target_named("reference"))
    with torch.no_grad():
        exact = model(*args).sample.float()
    own, expected = ((m(*args).sample.float() - exact).norm() for m in (native, meaning))
    assert native.without_kernel() == []
    assert own < 1.1 * expected < 0.3 * exact.norm()

"""Whole models on the target `cuda`, its kernels emulated: each of our operators has one, and the result is what it means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aquatint
from aquatint.runtime import target_named
from aquatint.runtime.cuda.launch import Family
from aquatint.runtime.cuda.sm80 import SM80, SM120
from aquatint.runtime.cuda.sm90 import SM90
from aquatint.runtime.ops import name_of
from tests.runtime.emulated import BUILT, emulated
from tests.zoo import build, tensors_of

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not BUILT.is_dir(), reason="`make emulated` was not run"),
]


def kernels_of(small: aquatint.CompressedModule) -> set[str | None]:
    return {name_of(node.target) for execution in small._executions for node in execution.kernels}


def in_bfloat16(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_bfloat16(each) for key, each in value.items()}
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize(
    ("name", "recipe", "family"),
    [
        ("dit", "svdq-w4a8-r32-whole", SM90), ("dit", "svdq-w4a4-r32", SM80), ("dit", "nvfp4-r32", SM120),
        ("flux", "svdq-w4a8-r32-whole", SM80), ("unet2d", "w8a8", SM90), ("sd", "svdq-w4a8-r32-whole", SM80),
    ],
)  # fmt: skip
def test_a_model_in_bfloat16(name: str, recipe: str, family: Family) -> None:
    model, (args, kwargs) = build(name)
    args, kwargs = tuple(map(in_bfloat16, args)), in_bfloat16(kwargs)
    small = aquatint.optimize(model.bfloat16(), recipe, calibrate=lambda m: m(*args, **kwargs))
    expected = tensors_of(small.on(target_named("reference"))(*args, **kwargs))
    native = small.on(emulated(family))
    found = tensors_of(native(*args, **kwargs))
    assert native.without_kernel() == []
    assert ("aquatint::rotary" in kernels_of(native)) == (name == "flux")
    for own, meaning in zip(found, expected, strict=True):
        assert (own.float() - meaning.float()).norm() < 0.03 * meaning.float().norm()
    for again, first in zip(tensors_of(native(*args, **kwargs)), found, strict=True):
        assert torch.equal(again, first)

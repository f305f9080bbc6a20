"""What a plate computes in numpy, beside PyTorch's operators of the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aquatint.runtime.ops import operator_named
from aquatint.runtime.plate.arrays import INTO, OPERATORS, computing

Draw = Callable[..., torch.Tensor]
Arguments = Callable[[Draw], tuple[Any, ...]]


def one(x: Draw) -> tuple[Any, ...]:
    return (x(3, 4),)


def two(x: Draw) -> tuple[Any, ...]:
    return x(3, 4), x(3, 1)


def positive(x: Draw) -> tuple[Any, ...]:
    return (x(3, 4).abs() + 0.1,)


CASES: dict[str, list[tuple[Arguments, dict[str, Any]]]] = {
    "aten::add.Tensor": [(two, {}), (two, {"alpha": 3}), (lambda x: (x(3), 2.5), {})],
    "aten::sub.Tensor": [(two, {}), (two, {"alpha": 0.5})],
    "aten::mul.Tensor": [(two, {}), (lambda x: (x(3), 2), {})],
    "aten::div.Tensor": [(two, {})],
    "aten::pow.Tensor_Scalar": [(lambda x: (x(3, 4), 2), {})],
    "aten::gelu.default": [(one, {"approximate": "tanh"}), (one, {})],
    "aten::clamp.default": [(lambda x: (x(3, 4), -0.5, 0.5), {}), (lambda x: (x(3, 4), -0.5), {})],
    "aten::mean.dim": [(lambda x: (x(3, 4, 5), [1, -1], True), {}), (lambda x: (x(3, 4), [0]), {})],
    "aten::sum.dim_IntList": [(lambda x: (x(3, 4, 5), [1, -1], True), {}), (lambda x: (x(3, 4), []), {})],
    "aten::linalg_vector_norm.default": [(lambda x: (x(3, 4, 5), 2, [1, 2], True), {})],
    "aten::softmax.int": [(lambda x: (20 * x(3, 4), -1), {})],
    "aten::matmul.default": [(lambda x: (x(2, 3, 4), x(4, 5)), {})],
    "aten::bmm.default": [(lambda x: (x(2, 3, 4), x(2, 4, 5)), {})],
    "aten::outer.default": [(lambda x: (x(3), x(4)), {})],
    "aten::scaled_dot_product_attention.default": [
        (lambda x: (x(2, 3, 5, 8), x(2, 3, 7, 8), x(2, 3, 7, 8)), {}),
        (lambda x: (x(2, 3, 5, 8), x(2, 3, 7, 8), x(2, 3, 7, 8), x(2, 1, 5, 7)), {"scale": 0.5}),
        (lambda x: (x(2, 3, 5, 8), x(2, 3, 7, 8), x(2, 3, 7, 8), x(2, 1, 1, 7) < 1), {}),
        (lambda x: (x(1, 1, 2, 8), x(1, 1, 3, 8), x(1, 1, 3, 8), torch.tensor([[True, True, False], [False] * 3])), {}),
    ],
    "aten::where.self": [(lambda x: (x(3, 4) > 0, x(3, 4), x(3, 1)), {})],
    "aten::masked_fill.Scalar": [(lambda x: (x(3, 4), x(3, 1) > 0, 2.5), {})],
    "aten::index.Tensor": [
        (lambda x: (x(5, 4), [torch.tensor([3, 0, 3])]), {}),
        (lambda x: (x(5, 4), [None, torch.tensor([[1], [2]])]), {}),
    ],
    "aten::repeat.default": [(lambda x: (x(3, 4), [2, 1, 3]), {})],
    "aten::repeat_interleave.self_int": [(lambda x: (x(3, 4), 2, 1), {}), (lambda x: (x(3, 4), 2), {"output_size": 24})],
    "aten::pad.default": [
        (lambda x: (x(2, 3, 4), [1, 2, 0, 3]), {}), (lambda x: (x(2, 3, 4), [1, 2], "constant", 5.0), {}),
        (lambda x: (x(2, 3, 4), [1, 2], "reflect"), {}), (lambda x: (x(2, 3, 4), [1, 2], "replicate"), {}),
    ],
    "aten::pixel_shuffle.default": [(lambda x: (x(2, 12, 3, 5), 2), {})],
    "aten::pixel_unshuffle.default": [(lambda x: (x(2, 3, 6, 4), 2), {})],
    "aten::cat.default": [(lambda x: ([x(3, 4), x(2, 4)],), {}), (lambda x: ([x(3, 4), x(3, 1)], -1), {})],
    "aten::concat.default": [(lambda x: ([x(3, 4), x(3, 1)], -1), {})],
    "aten::stack.default": [(lambda x: ([x(3, 4), x(3, 4)], 1), {})],
    "aten::embedding.default": [(lambda x: (x(5, 4), torch.tensor([[3, 0], [1, 1]])), {})],
    "aten::layer_norm.default": [(lambda x: (x(2, 3, 8), [8]), {}), (lambda x: (x(2, 8), [8], x(8), x(8), 1e-3), {})],
    "aten::rms_norm.default": [(lambda x: (x(2, 3, 8), [8], x(8)), {}), (lambda x: (x(2, 8), [8], None, 1e-3), {})],
    "aten::group_norm.default": [(lambda x: (x(2, 8, 5, 6), 4, x(8), x(8), 1e-3), {}), (lambda x: (x(2, 8, 5), 2), {})],
    "aquatint::group_affine": [
        (lambda x: (x(2, 8, 5, 6), 4, x(8), x(8)), {"eps": 1e-3}), (lambda x: (x(2, 8, 5), 2), {"eps": 1e-5}),
    ],
    "aquatint::dequantize": [
        (lambda x: ((50 * x(3, 8)).to(torch.int8), x(3, 1).abs()), {"format": "int8", "dtype": torch.float32}),
    ],
    "aten::upsample_nearest2d.vec": [
        (lambda x: (x(2, 3, 4, 5), None, [2.0, 2.0]), {}), (lambda x: (x(2, 3, 4, 5), [7, 9], None), {}),
        (lambda x: (x(2, 3, 4, 5), [12, 10], None), {}), (lambda x: (x(2, 3, 9, 7), None, [1.3, 1.25]), {}),
    ],
    "aten::expand.default": [(lambda x: (x(3, 1), [3, 4]), {})],
    "aten::reshape.default": [(lambda x: (x(4, 6).T, [3, 8]), {})],
    "aten::view.default": [(lambda x: (x(4, 6), [3, 8]), {})],
    "aten::flatten.using_ints": [(lambda x: (x(2, 3, 4).transpose(0, 1), 1), {})],
    "aten::unflatten.int": [(lambda x: (x(2, 6), 1, [2, 3]), {})],
    "aten::to.dtype": [(lambda x: (torch.arange(5), torch.float32), {})],
    "aten::_to_copy.default": [(one, {"dtype": torch.float64})],
    **{f"aten::{name}.default": [(positive, {})] for name in ("sqrt", "rsqrt", "log")},
    **{
        f"aten::{name}.default": [(one, {})]
        for name in ("neg", "abs", "exp", "sin", "cos", "tanh", "relu", "sigmoid", "silu", "zeros_like", "ones_like", "clone",
                     "contiguous")
    },
}  # fmt: skip
UNASKED = {
    "affine",
    "copy",
    "copy to bfloat16",
    "copy from bfloat16",
    "aten::to.dtype_layout",
    "aten::to.device",
}  # tested below, or alike


def as_array(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [as_array(v) for v in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


def test_every_operator_is_here() -> None:
    assert set(CASES) | UNASKED == set(OPERATORS) | set(INTO)
    assert not set(OPERATORS) & set(INTO)


@pytest.mark.parametrize("name", CASES)
def test_means_what_torch_means(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    for make, options in CASES[name]:
        args = make(lambda *shape: torch.randn(shape, generator=random))
        expected = operator_named(name)(*args, **options)
        expected = expected if isinstance(expected, tuple) else (expected,)
        results = [np.full(e.shape, 7, e.numpy().dtype) for e in expected]
        plain = {k: v for k, v in options.items() if not isinstance(v, torch.dtype)}
        computing(name, results, [as_array(a) for a in args], plain)()
        for f, e in zip(results, expected, strict=True):
            assert torch.allclose(torch.from_numpy(f), e, rtol=1e-5, atol=1e-6), name


def test_what_numpy_does_not_do_says_so() -> None:
    x = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="causal"):
        OPERATORS["aten::scaled_dot_product_attention.default"](x, x, x, None, 0.0, True)
    with pytest.raises(ValueError, match="numbers in nvfp4"):
        OPERATORS["aquatint::dequantize"](x, x, format="nvfp4")
    with pytest.raises(IndexError, match="5 entries, from 0 on, and -1 to 2"):
        OPERATORS["aten::embedding.default"](np.zeros((5, 2)), np.array([2, -1]))
    with pytest.raises(ValueError, match="order 1"):
        OPERATORS["aten::linalg_vector_norm.default"](x, 1)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bfloat16_rounds_as_torch_rounds(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    bits = OPERATORS["copy to bfloat16"](x.numpy())
    back = torch.from_numpy(OPERATORS["copy from bfloat16"](bits))
    assert torch.equal(back.nan_to_num(7.0, 8.0, 9.0), x.bfloat16().float().nan_to_num(7.0, 8.0, 9.0))

"""The CUDA kernels against the operators' meaning in float64, on a GPU: outputs are poisoned first, data is random."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.cuda import Cuda, cuda

pytestmark = pytest.mark.gpu
SHAPES = [
    (512, 256, 512),
    (1000, 1152, 640),
    (257, 2240, 1000),
    (4608, 3072, 768),
    (77, 64, 8),
    (1, 12288, 256),
    (333, 1600, 136),
]


@pytest.fixture(scope="module")
def target() -> Cuda:
    return cuda()


@pytest.fixture(autouse=True)
def poison() -> None:
    """What the next results are likely to lie in is not a number."""
    rooms = [torch.full((size,), float("nan"), device="cuda") for size in (1 << 12, 1 << 18, 1 << 22, 1 << 24)]
    del rooms


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (made * scale).cuda().bfloat16()


def relative(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm())


def kernel(target: Cuda, name: str, *args: Any, **kwargs: Any) -> Any:
    found = target.lower(f"aquatint::{name}", args, kwargs)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("m", "k", "rank"), [(512, 256, 32), (1000, 1152, 32), (33, 2240, 16), (77, 64, 0), (5, 12288, 64), (64, 15360, 32)]
)
def test_quantize(target: Cuda, m: int, k: int, rank: int) -> None:
    x = numbers(m, k)
    x[0] = 0
    smooth = (torch.rand(k) + 0.5).float()
    down = (torch.randn(rank, k) / k**0.5) if rank else None
    run = kernel(target, "quantize", ops.Slot, smooth, down, format="int8")
    found = run(x)
    exact = x.double() * smooth.cuda().double()
    codes, scales = format_named("int8").encode(exact.float())
    assert (found[0].int() - codes.int()).abs().max() <= 1
    assert (found[0] != codes).float().mean() < 1e-3
    torch.testing.assert_close(found[1], scales, rtol=1e-6, atol=0)
    if down is not None:
        assert relative(found[2], exact @ down.cuda().double().T) < 5e-3
    for again, first in zip(run(x), found, strict=True):
        assert torch.equal(again, first)


@pytest.mark.parametrize("activation", [None, "silu", "gelu_tanh"])
def test_quantize_behind_a_norm(target: Cuda, activation: str | None) -> None:
    x = numbers(2, 300, 2304) + 3
    gain, offset = numbers(2, 1, 2304, scale=0.3) + 1, numbers(2, 1, 2304, seed=1)
    options: dict[str, Any] = {"format": "int8", "eps": 1e-6, "activation": activation}
    run = kernel(target, "quantize", ops.Slot, None, None, ops.Slot, ops.Slot, **options)
    codes, scales = run(x, gain, offset)
    exact = format_named("int8").decode(*ops.quantize(x.double(), None, None, gain, offset, **options))
    assert relative(format_named("int8").decode(codes, scales), exact.double()) < 1e-2


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize("format", ["int4-g64-whole", "int8"])
@pytest.mark.parametrize("rank", [0, 32, 64])
def test_product(target: Cuda, m: int, k: int, n: int, format: str, rank: int) -> None:
    x, weight = numbers(m, k), torch.randn(n, k) / k**0.5
    stored, bias = format_named(format).encode(weight), torch.randn(n)
    down, up = torch.randn(rank, k) / k**0.5, torch.randn(n, rank).bfloat16().float() * 0.1
    branch = (down, up) if rank else (None, None)
    codes, scales, *h = kernel(target, "quantize", ops.Slot, None, branch[0], format="int8")(x)
    options: dict[str, Any] = {"formats": ("int8", format), "dtype": torch.bfloat16}
    run = kernel(
        target, "gemm", ops.Slot, ops.Slot, *stored, bias, ops.Slot if rank else None, branch[1], **options
    )  # fmt: skip
    y = run(codes, scales, *h)
    exact = codes.double() * scales.double() @ format_named(format).decode(*stored).cuda().double().T + bias.cuda().double()
    if rank:
        exact += h[0].double() @ up.cuda().double().T
    assert torch.isfinite(y).all()
    assert relative(y, exact) < 4e-3
    assert torch.equal(run(codes, scales, *h), y)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_what_follows_a_product(target: Cuda, activation: str) -> None:
    x, weight = numbers(2, 500, 512), torch.randn(384, 512) / 22
    stored = format_named("int8").encode(weight)
    gate, residual = numbers(2, 1, 384), numbers(2, 500, 384, seed=2)
    codes, scales = kernel(target, "quantize", ops.Slot, format="int8")(x)
    options: dict[str, Any] = {"formats": ("int8", "int8"), "dtype": torch.bfloat16, "activation": activation}
    run = kernel(target, "gemm", ops.Slot, ops.Slot, *stored, **options, gate=ops.Slot, residual=ops.Slot)
    y = run(codes, scales, gate, residual)
    product = codes.double() * scales.double() @ format_named("int8").decode(*stored).cuda().double().T
    exact = ops.ACTIVATIONS[activation](product) * gate.double() + residual.double()
    assert relative(y, exact) < 6e-3

"""CUDA kernels against the operators' meaning in float64, on whatever device a target is for: outputs are poisoned first."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.cuda.refusals import CONV_FORMATS
from aquatint.runtime.cuda.sm80 import W8A8
from aquatint.runtime.cuda.target import Cuda
from aquatint.runtime.ops import meanings


def poison(device: torch.device) -> None:
    """What the next results are likely to lie in is not a number."""
    rooms = [torch.full((size,), float("nan"), device=device) for size in (1 << 12, 1 << 18, 1 << 22, 1 << 24)]
    del rooms


def of(target: Cuda) -> torch.dtype:
    """What models are in that are checked: the first of what the target's kernels are for."""
    assert target.engine is not None
    return target.engine.family.numbers[0]


def numbers(target: Cuda, *shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (made * scale).to(target.device, of(target))


def relative(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm())


def near(y: Tensor) -> float:
    """What rounding to 16 bits may cost; of few results some may nearly cancel."""
    return 4e-3 if y.numel() > 2000 else 1e-2


def kernel(target: Cuda, name: str, *args: Any, **kwargs: Any) -> Any:
    found = target.lower(f"aquatint::{name}", args, kwargs)
    assert found is not None
    return found


def decoded(format: str, codes: Tensor, scales: Tensor) -> Tensor:
    return format_named(format).decode(codes, scales).double()


def check_quantize(target: Cuda, m: int, k: int, rank: int, format: str) -> None:
    x = numbers(target, m, k)
    x[1:2] = 0
    smooth = (torch.rand(k) + 0.5).float()
    down = (torch.randn(rank, k) / k**0.5) if rank else None
    run = kernel(target, "quantize", ops.Slot, smooth, down, format=format)
    found = run(x)
    exact = x.double() * smooth.to(x.device).double()
    number = format_named(format)
    codes, scales = number.encode(exact.float())
    apart = (number.values(found[0]) - number.values(codes)).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3
    read, own = number.read_scales(found[1]), number.read_scales(scales)
    torch.testing.assert_close(read, own, rtol=1e-6 if format == "int8" else 1e-2, atol=0)
    if down is not None:
        assert relative(found[2], exact @ down.to(x.device).double().T) < 1.5e-2  # few numbers may nearly cancel
    for again, first in zip(run(x), found, strict=True):
        assert torch.equal(again, first)


def check_norm(target: Cuda, m: int, k: int, activation: str | None, format: str) -> None:
    """Two samples of m rows."""
    x = numbers(target, 2, m, k) + 3
    gain, offset = numbers(target, 2, 1, k, scale=0.3) + 1, numbers(target, 2, 1, k, seed=1)
    options: dict[str, Any] = {"format": format, "eps": 1e-6, "activation": activation}
    run = kernel(target, "quantize", ops.Slot, None, None, ops.Slot, ops.Slot, **options)
    codes, scales = run(x, gain, offset)
    exact = decoded(format, *ops.quantize(x.double(), None, None, gain, offset, **options))
    assert relative(decoded(format, codes, scales), exact) < (1e-2 if format == "int8" else 6e-2)


def product_of(
    target: Cuda, m: int, k: int, n: int, formats: tuple[str, str], rank: int, **options: Any
) -> tuple[Tensor, Tensor]:
    """A product with bias and branch, and what it gives in float64 before any activation; twice it gives the same bits."""
    x, weight = numbers(target, m, k), torch.randn(n, k) / k**0.5
    stored, bias = format_named(formats[1]).encode(weight), torch.randn(n)
    down, up = torch.randn(rank, k) / k**0.5, torch.randn(n, rank).bfloat16().float() * 0.1
    branch = (down, up) if rank else (None, None)
    codes, scales, *h = kernel(target, "quantize", ops.Slot, None, branch[0], format=formats[0])(x)
    options |= {"formats": formats, "dtype": of(target)}
    run = kernel(target, "gemm", ops.Slot, ops.Slot, *stored, bias, ops.Slot if rank else None, branch[1], **options)
    y = run(codes, scales, *h)
    place = x.device
    exact = decoded(formats[0], codes, scales) @ decoded(formats[1], *stored).to(place).T + bias.to(place).double()
    if rank:
        exact += h[0].double() @ up.to(place).double().T
    assert torch.isfinite(y).all()
    assert torch.equal(run(codes, scales, *h), y)
    return y, exact


def check_product(target: Cuda, m: int, k: int, n: int, formats: tuple[str, str], rank: int) -> None:
    y, exact = product_of(target, m, k, n, formats, rank)
    assert relative(y, exact) < near(y)


def check_conv(
    target: Cuda, image: tuple[int, int, int, int], n: int, formats: tuple[str, str], rank: int, stride: int = 1,
    padding: int = 1, dilation: int = 1, kernel_size: tuple[int, int] = (3, 3),
) -> None:  # fmt: skip
    """An image (B, C, H, W), a bias, a residual for each sample (as a time embedding is) and a branch of `rank`."""
    channels, taps = image[1], kernel_size[0] * kernel_size[1]
    x, weight, bias = numbers(target, *image), torch.randn(n, *kernel_size, channels) / (taps * channels) ** 0.5, torch.randn(n)
    stored = format_named(formats[1]).encode(weight)
    down = torch.randn(taps * rank, channels) / channels**0.5 if rank else None
    up = torch.randn(n, rank).bfloat16().float() * 0.1 if rank else None
    by_kernel = target.lower("aquatint::quantize", (ops.Slot, None, down), {"format": formats[0], "axis": 1})
    down = None if down is None else down.to(x.device)
    codes, scales, *h = by_kernel(x) if by_kernel else ops.quantize(x, None, down, format=formats[0], axis=1)
    residual = numbers(target, image[0], n, 1, 1)
    geometry = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2}
    options: dict[str, Any] = {"formats": formats, "dtype": of(target), "activation": "silu", **geometry}
    run = kernel(
        target, "conv2d", ops.Slot, ops.Slot, *stored, bias, ops.Slot if rank else None, up, residual=ops.Slot, **options
    )  # fmt: skip
    assert run.fits(codes, scales, *h, residual)
    y = run(codes, scales, *h, residual)
    place = x.device
    kernel_weight = decoded(formats[1], *stored).to(place).float()
    exact = meanings.convolved(
        decoded(formats[0], codes, scales).float(), kernel_weight, bias.to(place), h[0] if rank else None,
        None if up is None else up.to(place), dtype=torch.float32, activation="silu", residual=residual, **geometry,
    ).double()  # fmt: skip
    assert y.shape == exact.shape
    assert relative(y, exact) < near(y)
    assert torch.equal(run(codes, scales, *h, residual), y)


def check_gemv(target: Cuda, m: int, k: int, n: int, format: str, activation: str | None) -> None:
    x, weight, bias = numbers(target, 1, m, k), torch.randn(n, k) / k**0.5, torch.randn(n)
    stored = format_named(format).encode(weight)
    options: dict[str, Any] = {"formats": (None, format), "dtype": of(target), "activation": activation}
    run = kernel(target, "gemm", ops.Slot, None, *stored, bias, **options)
    assert run.fits(x)
    y = run(x)
    exact = x.double() @ decoded(format, *stored).to(x.device).T + bias.to(x.device).double()
    exact = meanings.ACTIVATIONS[activation](exact) if activation else exact
    assert y.shape == exact.shape
    assert relative(y, exact) < near(y)
    assert torch.equal(run(x), y)


def check_rotary(
    target: Cuda,
    batch: int,
    tokens: int,
    heads: int,
    width: int,
    eps: float | None,
    by_pairs: bool = False,
    inner: bool = False,
    halves: bool = False,
) -> None:
    """`inner`: heads come before tokens, as attention reads them; `halves`: a pair is half a row apart."""
    shape = (heads, tokens) if inner else (tokens, heads)
    angles = torch.rand(1, *((1, tokens) if inner else (tokens, 1)), width // 2).to(target.device) * 6
    x, cos, sin = numbers(target, batch, *shape, width), angles.cos(), angles.sin()
    if not by_pairs:
        cos, sin = (torch.cat([v, v], -1) if halves else v.repeat_interleave(2, -1) for v in (cos, sin))
    weight = None if eps is None else torch.rand(width) + 0.5
    options: dict[str, Any] = {"dtype": of(target), "eps": eps, "halves": halves}
    run = kernel(target, "rotary", ops.Slot, ops.Slot, ops.Slot, weight, **options)
    assert run.fits(x, cos, sin)
    weights = None if weight is None else weight.to(x.device)
    exact = ops.rotary(x.float(), cos, sin, weights, **options | {"dtype": torch.float32})
    y = run(x, cos, sin)
    assert relative(y, exact.double()) < near(y)


def check_turned(
    target: Cuda,
    batch: int,
    tokens: int,
    k: int,
    heads: int,
    width: int,
    formats: tuple[str, str],
    rank: int,
    eps: float | None,
    by_pairs: bool = False,
    halves: bool = False,
) -> None:
    """A product of queries or keys, its heads normed and turned."""
    weight, bias, norm = torch.randn(heads * width, k) / k**0.5, torch.randn(heads * width), torch.rand(width) + 0.5
    up = torch.randn(heads * width, rank) / 8 if rank else None
    stored = format_named(formats[1]).encode(weight)
    x = numbers(target, batch, tokens, k)
    codes, scales = (t.to(target.device) for t in format_named(formats[0]).encode(x.float()))
    h = torch.randn(batch, tokens, rank).to(target.device) if rank else None
    angles = torch.rand(1, tokens, 1, width // 2).to(target.device) * 6
    cos, sin = angles.cos(), angles.sin()
    if not by_pairs:
        cos, sin = (torch.cat([v, v], -1) if halves else v.repeat_interleave(2, -1) for v in (cos, sin))
        if not halves:  # nothing says that both numbers of a pair have one angle
            sin = sin + 0.1 * torch.rand_like(sin)
    options: dict[str, Any] = {"formats": formats, "dtype": of(target), "width": width, "eps": eps, "halves": halves}
    slot = None if h is None else ops.Slot
    last = None if eps is None else norm
    run = kernel(target, "gemm_rotary", *[ops.Slot] * 2, *stored, ops.Slot, bias, slot, up, last, **options)
    pairs = ops.angles(cos, sin, width=width, halves=halves)
    varying = (codes, scales, pairs, *([] if h is None else [h]))
    assert run.fits(*varying)
    poison(target.device)
    y = run(*varying)
    there = [None if t is None else t.to(target.device) for t in (*stored, bias, up, last)]
    y32 = ops.gemm(codes, scales, *there[:3], h, there[3], formats=formats, dtype=torch.float32)
    meant = ops.rotary(y32.unflatten(-1, (-1, width)), cos, sin, there[4], eps=eps, halves=halves)
    assert y.shape == (batch, tokens, heads, width)
    assert relative(y, meant.double()) < near(y)
    assert torch.equal(run(*varying), y)


def check_fixed_vectors(target: Cuda, m: int, k: int, n: int) -> None:
    """What a norm and a product are followed by as weights of the model, on the CPU as those are, and no vector of a row."""
    x, weight = numbers(target, 2, m, k), torch.randn(n, k) / k**0.5
    gain, offset, gate, residual = torch.rand(k) + 0.5, torch.randn(k), torch.rand(n), torch.randn(1, m, n).to(of(target))
    quantize = kernel(target, "quantize", ops.Slot, None, None, gain, offset, format="int8", eps=1e-6)
    stored = format_named("int8").encode(weight)
    options: dict[str, Any] = {"formats": ("int8", "int8"), "dtype": of(target)}
    run = kernel(target, "gemm", ops.Slot, ops.Slot, *stored, **options, gate=gate, residual=residual)
    y = run(*quantize(x))
    place = x.device
    plain = torch.nn.functional.layer_norm(x.double(), (k,), eps=1e-6) * gain.to(place).double() + offset.to(place).double()
    exact = plain @ weight.to(place).double().T * gate.to(place).double() + residual.to(place).double()
    assert relative(y, exact) < 3e-2
    empty = run(*quantize(x[:, :0]))
    assert empty.shape == (2, 0, n)


def check_moments(target: Cuda, shape: tuple[int, ...], groups: int, last: bool) -> None:
    x = numbers(target, *shape) * 2 + 5
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    run = kernel(target, "group_affine", ops.Slot, groups, weight, bias, eps=1e-5)
    assert run.fits(x)
    found = run(x)
    for own, exact in zip(found, ops.group_affine(x, groups, weight.to(x.device), bias.to(x.device), eps=1e-5), strict=True):
        torch.testing.assert_close(own, exact, rtol=2e-4, atol=2e-4)
    for again, first in zip(run(x), found, strict=True):
        assert torch.equal(again, first)


def check_epilogue(target: Cuda, m: int, k: int, n: int, formats: tuple[str, str], activation: str) -> None:
    """Two samples of m rows, with a gate for each sample and a residual for each row."""
    x, weight = numbers(target, 2, m, k), torch.randn(n, k) / k**0.5
    stored = format_named(formats[1]).encode(weight)
    gate, residual = numbers(target, 2, 1, n), numbers(target, 2, m, n, seed=2)
    codes, scales = kernel(target, "quantize", ops.Slot, format=formats[0])(x)
    options: dict[str, Any] = {"formats": formats, "dtype": of(target), "activation": activation}
    run = kernel(target, "gemm", ops.Slot, ops.Slot, *stored, **options, gate=ops.Slot, residual=ops.Slot)
    y = run(codes, scales, gate, residual)
    product = decoded(formats[0], codes, scales) @ decoded(formats[1], *stored).to(x.device).T
    exact = meanings.ACTIVATIONS[activation](product) * gate.double() + residual.double()
    assert relative(y, exact) < 6e-3


def check_gated(target: Cuda, m: int, k: int, n: int, formats: tuple[str, str], rank: int, active: int) -> None:
    """A gated unit of n columns, with bias and branch."""
    y, whole = product_of(target, m, k, 2 * n, formats, rank, activation="gelu", active=active)
    halves = whole.chunk(2, -1)
    assert y.shape == (m, n)
    assert relative(y, halves[1 - active] * torch.nn.functional.gelu(halves[active])) < near(y)


def check_all(target: Cuda) -> None:
    """One small case of each, as far as the target's kernels go."""
    assert target.engine is not None
    family = target.engine.family
    for formats in family.products:
        check_product(target, 77, 192, 136, formats, 32)
        check_epilogue(target, 33, 192, 136, formats, "gelu")
        check_gated(target, 33, 192, 72, formats, 32, 1)
    for number in family.formats:
        check_quantize(target, 21, 320, 32, number)
        check_norm(target, 9, 576, "silu", number)
    for number in ("int4-g64", "int4-g64-whole", "int8"):
        check_gemv(target, 5, 192, 40, number, "silu")
    for formats in (f for f in CONV_FORMATS if f in family.products):
        check_conv(target, (2, 64, 7, 9), 40, formats, 8)
    check_conv(target, (2, 48, 7, 9), 40, W8A8, 8, stride=2)
    if target.engine is not None and target.engine.family.turned is not None:
        for formats in target.engine.family.products:
            check_turned(target, 2, 21, 128, 3, 64, formats, 32, 1e-6)
    check_rotary(target, 2, 9, 3, 72, 1e-6)
    check_rotary(target, 2, 9, 3, 72, None, by_pairs=True, inner=True)
    check_rotary(target, 2, 9, 3, 80, 1e-6, halves=True)
    check_rotary(target, 2, 9, 3, 64, None, by_pairs=True, halves=True)
    check_moments(target, (2, 60, 7, 9), 5, last=True)
    check_moments(target, (2, 60, 7, 9), 5, last=False)
    check_fixed_vectors(target, 20, 192, 136)


if __name__ == "__main__":
    from aquatint.runtime.cuda.sm80 import SM75, SM80
    from tests.runtime.emulated import emulated

    whole = next(family for family in (SM75, SM80) if family.name == sys.argv[1])
    single = replace(whole, numbers=whole.numbers[:1])
    check_all(emulated(single, **{name: Path(sys.argv[2]) / f"{name}.so" for name in single.modules}))
    print("checked")

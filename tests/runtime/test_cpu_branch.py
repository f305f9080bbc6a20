"""The low-rank branch as it is stored, in bytes times powers of two, on every instruction set that this machine has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import FORMATS
from aquatint.compiler.powers import rounded, scaled
from aquatint.runtime import ops
from aquatint.runtime.cpu.native import KERNEL_SETS
from aquatint.runtime.ops import Slot, meanings

from .kernels import assert_near, assert_projected, rows, target

pytestmark = pytest.mark.native

LEADING = 8  # ranks with 15 bits on the way up: csrc/cpu/bytes.h


def rounding(kernels: str, h: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """What rounding h (.., r), and `up` where it becomes words, can do to a result (.., n) at most."""
    found, stored = target(kernels).kernels, scaled(up, 1)
    assert stored is not None
    if found.tiles:
        return 2.0**-8 * h.abs() @ up.abs().T
    if not found.byte_up:
        words = h.abs().amax(-1, keepdim=True) * up.abs().sum(1) + h.abs().sum(-1, keepdim=True) * up.abs().amax(1)
        return 0.51 * words / 4095
    size = torch.ldexp(h, stored.exponents.flatten().float()).abs()
    largest = torch.cat([size[..., :LEADING] / 128, size[..., LEADING:]], -1).amax(-1, keepdim=True)
    return 0.51 * largest / 127 * stored.codes.float().abs().sum(1)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 5), st.booleans(), st.sampled_from([1, 5, 16, 32, 40, 70]))
def test_the_way_down_reads_codes(kernels: str, format: str, seed: int, m: int, groups: int, smoothed: bool, rank: int) -> None:
    x, random = rows(seed, m, 64 * groups), torch.Generator().manual_seed(seed)
    smooth = torch.rand(64 * groups, generator=random) + 0.1 if smoothed else None
    down = rounded(torch.randn(rank, 64 * groups, generator=random) * torch.logspace(-3, 3, rank).unsqueeze(1), 0)
    options = {"format": format, "branch": "int8"}
    kernel = target(kernels).lower("aquatint::quantize", (Slot, smooth, down), options)
    assert kernel is not None
    codes, scales, h = kernel(x)
    expected = ops.quantize(x, smooth, down, **options)
    assert torch.equal(codes, expected[0])
    assert torch.equal(scales, expected[1])
    if target(kernels).kernels.wide_sums:
        torch.testing.assert_close(h, expected[2], rtol=1e-5, atol=1e-5 * expected[2].abs().max().item())
    else:  # which rounds less than it may
        assert_projected(kernels, h, meanings.smoothed(x, smooth, None, None), down)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["int4-g64", "int4-g64-whole"]),
)
def test_the_way_up_in_digits(kernels: str, format: str, seed: int, m: int, n: int, rank: int, stored: str) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS[stored].encode(torch.randn(n, 64, generator=random))
    codes = FORMATS[format].encode(rows(seed, m, 64))
    h, up = 100 * torch.randn(m, rank, generator=random), rounded(torch.randn(n, rank, generator=random), 1)
    h[m // 2], h[:, 0] = 0, 30 * h[:, 0]
    options = {"formats": [format, stored], "dtype": torch.float32}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight, None, Slot, up), options)
    assert kernel is not None
    assert_near(kernel(*codes, h), ops.gemm, *codes, *weight, None, h, up, **options, rounded=rounding(kernels, h, up))
    h[m - 1, rank - 1] = torch.nan
    y = kernel(*codes, h)
    assert y[m - 1].isnan().all()
    assert y[: m - 1].isfinite().all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(1, 40), st.sampled_from([1, 8, 12]), st.integers(0, 1), st.integers(1, 2))
def test_a_convolution_adds_up_what_its_taps_see(kernels: str, seed: int, n: int, rank: int, padding: int, stride: int) -> None:
    random = torch.Generator().manual_seed(seed)
    codes = FORMATS["int8"].encode(torch.randn(2, 5, 6, 64, generator=random))
    weight = FORMATS["int4-g64"].encode(torch.randn(n, 3, 3, 64, generator=random))
    h, up = torch.randn(2, 5, 6, 9 * rank, generator=random), rounded(torch.randn(n, rank, generator=random), 1)
    geometry = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1]}
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32, **geometry}
    kernel = target(kernels).lower("aquatint::conv2d", (Slot, Slot, *weight, None, Slot, up), options)
    assert kernel is not None
    taps = torch.einsum("rq,ts->rqts", torch.eye(rank), torch.eye(9)).reshape(rank, rank * 9, 3, 3)
    # (pixels, taps r) as channels: of tap t and rank q it is t r + q
    by_rank = h.unflatten(-1, (9, rank)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
    added = torch.nn.functional.conv2d(by_rank, taps, None, stride, padding).movedim(1, -1)
    bound = rounding(kernels, added, up).movedim(-1, 1)
    assert_near(kernel(*codes, h), ops.conv2d, *codes, *weight, None, h, up, **options, rounded=bound)


def test_what_bytes_do_not_hold_keeps_sixteen_bits() -> None:
    """A branch that was not rounded when it was split off; and one whose input a program does not let be rounded."""
    kernels, up = target("plain"), torch.randn(32, 8)
    weight, options = FORMATS["int4-g64"].encode(torch.randn(32, 64)), {"formats": ["int8", "int4-g64"], "dtype": torch.float32}

    def bits(up: torch.Tensor) -> int:
        kernel = kernels.lower("aquatint::gemm", (Slot, Slot, *weight, None, Slot, up), options)
        assert kernel is not None
        return kernel.product.call.branch_bits

    assert (bits(up), bits(rounded(up, 1))) == (16, 8)
    down = rounded(torch.randn(8, 64), 0)
    made = [kernels.lower("aquatint::quantize", (Slot, None, down), {"format": "int8", **o}) for o in ({}, {"branch": "int8"})]
    assert [kernel.call.branch_bits for kernel in made] == [16, 8]  # type: ignore[union-attr]

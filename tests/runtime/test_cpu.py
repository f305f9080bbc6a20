"""The compiled kernels of what stays in float, and the target, on every instruction set that this machine has."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import FORMATS
from aquatint.runtime import target_named
from aquatint.runtime.cpu.native import KERNEL_SETS
from aquatint.runtime.ops import Slot

from .kernels import SHARES, target

pytestmark = pytest.mark.native


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 3), st.sampled_from([(1, 1), (5, 7), (16, 16)]),
    st.sampled_from([(64, 8), (96, 32)]), st.booleans(), st.floats(-1000, 1000),
)  # fmt: skip
def test_group_affine(kernels, seed, batch, size, channels, weighted, mean) -> None:
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(batch, *size, channels[0], generator=random) + mean).permute(0, 3, 1, 2)
    weight, bias = (torch.randn(channels[0], generator=random) if weighted else None for _ in range(2))
    kernel = target(kernels).lower("aquatint::group_affine", (Slot, channels[1], weight, bias), {"eps": 1e-5})
    assert kernel is not None
    gain, offset = kernel(x)
    got = x.movedim(1, -1) * gain + offset
    expected = torch.nn.functional.group_norm(x.double(), channels[1], None if weight is None else weight.double(),
                                              None if bias is None else bias.double(), 1e-5).movedim(1, -1)  # fmt: skip
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3 * (1 + abs(mean) / 10))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from([(1, 5, 7), (2, 8, 8), (1, 1, 3)]), st.integers(1, 5), st.integers(1, 40),
    st.sampled_from([(3, 3), (1, 2)]), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_convolutions_of_plain_numbers(kernels, seed, image, channels, n, taps, stride, padding, dilation, biased) -> None:
    batch, *size = image
    if any(length + 2 * padding < dilation * (t - 1) + 1 for length, t in zip(size, taps, strict=True)):
        return
    random = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(batch, channels, *size, generator=random), torch.randn(n, channels, *taps, generator=random)
    bias = torch.randn(n, generator=random) if biased else None
    geometry = [stride, stride], [padding, padding], [dilation, dilation]
    kernel = target(kernels).lower("aten::conv2d.default", (Slot, weight, bias, *geometry), {})
    assert kernel is not None
    y = kernel(x)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight, bias, *geometry), rtol=1e-4, atol=1e-4)
    assert y.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_images_keep_their_channels_last(channels: int) -> None:
    x, weight, bias = torch.randn(2, channels, 9, 7), torch.randn(16, channels, 3, 3), torch.randn(16)
    convolve = target("plain").lower("aten::conv2d.default", (Slot, weight, bias, [2, 1], [1, 1]), {})
    scale = torch.randn(16)
    norm = target("plain").lower("aten::group_norm.default", (Slot, 4, scale, bias, 1e-5, False), {})
    assert convolve is not None
    assert norm is not None
    y = convolve(x)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight, bias, (2, 1), 1), rtol=1e-4, atol=1e-5)
    assert y.movedim(1, -1).is_contiguous()
    expected = torch.nn.functional.group_norm(y, 4, scale, bias)
    torch.testing.assert_close(norm(y), expected, rtol=1e-4, atol=1e-4)
    assert not norm.fits(y.contiguous()), "that is left to PyTorch"


def attending(kernels: str, format: str, **options: Any) -> Any:
    """The kernel of attention in float32 or bfloat16, and how far off it may be, as a share of the largest value."""
    wide = format == "float32"
    name = "aten::scaled_dot_product_attention.default" if wide else "aquatint::attention"
    kernel = target(kernels).lower(name, (Slot, Slot, Slot), options if wide else {**options, "format": format})
    assert kernel is not None
    return kernel, SHARES.get(kernels, {}).get(format, 2e-3)


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 2), st.integers(1, 3), st.integers(1, 110), st.integers(1, 110), st.integers(1, 80),
    st.sampled_from([None, 0.3]), st.booleans(),
)  # fmt: skip
def test_attention(kernels, format, seed, batch, heads, queries, keys, width, scale, between) -> None:
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, t, heads, width, generator=random).transpose(1, 2) for t in (queries, keys, keys))
    v = v.contiguous() if between else v
    kernel, off = attending(kernels, format, scale=scale)
    assert kernel.fits(q, k, v)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(kernel(q, k, v), expected, rtol=1e-3, atol=off * v.abs().max().item())
    q[0, 0, 0, 0] = torch.nan
    y = kernel(q, k, v)
    assert y[0, 0, 0].isnan().all()
    assert y[0, 0, 1:].isfinite().all()
    v[0, 0, keys // 2, width - 1] = torch.nan
    assert kernel(q, k, v)[0, 0, :, width - 1].isnan().all()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 70), st.integers(1, 200), st.integers(1, 100), st.booleans())
def test_products_of_plain_numbers(kernels: str, seed: int, m: int, k: int, n: int, biased: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(m, k, generator=random), torch.randn(n, k, generator=random)
    bias = torch.randn(n, generator=random) if biased else None
    kernel = target(kernels).lower("aten::linear.default", (Slot, weight, bias), {})
    assert kernel is not None
    assert kernel.fits(x)
    assert not kernel.fits(torch.randn(1 + 2**24 // (k * n), 1).expand(-1, k).contiguous()) or 1 + 2**24 // (k * n) <= 16
    torch.testing.assert_close(kernel(x), torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


def test_what_has_no_kernel_keeps_its_meaning() -> None:
    weight = FORMATS["int4-g64"].encode(torch.randn(8, 64))
    plain = {"formats": [None, "int4-g64"], "dtype": torch.float32}
    assert target("plain").lower("aquatint::gemm", (Slot, None, *weight, None, Slot, torch.randn(8, 4)), plain) is None
    assert target("plain").lower("aquatint::conv2d", (Slot, None, *weight), plain) is None
    assert target("plain").lower("aquatint::gemm", (Slot, None, *weight, Slot), plain) is None
    assert target("plain").lower("aquatint::quantize", (Slot, Slot), {"format": "int8"}) is None
    assert target("plain").lower("aquatint::quantize", (Slot,), {"format": "nvfp4"}) is None
    assert target("plain").lower("aten::gelu.default", (Slot,), {}) is None
    with pytest.raises(ValueError, match="known: cpu, cuda, reference"):
        target_named("tpu")


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("width", [1, 8, 24, 40, 72])
def test_attention_reads_nothing_that_it_did_not_write(kernels: str, format: str, width: int) -> None:
    """Its scratch memory is full of what is no number, from a call before."""
    kernel, off = attending(kernels, format)
    kernel(*(torch.full((1, 1, 130, 128), torch.nan) for _ in range(3)))
    q, k, v = (torch.randn(1, 1, 5, width) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(kernel(q, k, v), expected, rtol=1e-3, atol=off * v.abs().max().item())


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("queries", "keys", "width"), [(300, 1300, 40), (33, 513, 72), (1100, 512, 8), (5, 1025, 64)])
def test_attention_of_many_keys(kernels: str, format: str, queries: int, keys: int, width: int) -> None:
    """More than are taken at once, the largest scores among the last: what was added up before has to shrink."""
    random = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(1, 2, t, width, generator=random) for t in (queries, keys, keys))
    k *= torch.linspace(0.1, 3, keys).unsqueeze(1)
    kernel, off = attending(kernels, format)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(kernel(q, k, v), expected, rtol=1e-3, atol=off * v.abs().max().item())


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("share", [3e-6, 2e-5])
def test_many_small_shares_count(kernels: str, format: str, share: float) -> None:
    """Against one large one, each of them less than the last digit of what shares are rounded to."""
    q, k, v = torch.ones(1, 1, 3, 8), torch.full((1, 1, 4096, 8), 0.0), torch.ones(1, 1, 4096, 8)
    k[0, 0, 1000, 0], v[0, 0, 1000] = -math.log(share) * 8**0.5, 0.0
    kernel, _ = attending(kernels, format)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(kernel(q, k, v), expected, rtol=0.0, atol=5e-3)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("one", [1000.0, float("inf")])
def test_one_value_does_not_drown_its_column(kernels: str, one: float) -> None:
    """Every query looks at a key whose values are small beside another's."""
    q, k, v = torch.ones(1, 1, 3, 8), torch.zeros(1, 1, 600, 8), torch.full((1, 1, 600, 8), 0.3)
    k[0, 0, 5], v[0, 0, 1, 2] = 40.0, one
    kernel, _ = attending(kernels, "bfloat16")
    y = kernel(q, k, v)
    torch.testing.assert_close(y[..., 3:], torch.full((1, 1, 3, 5), 0.3), rtol=1e-2, atol=0.0)
    if one < math.inf:
        torch.testing.assert_close(y[..., 2], torch.full((1, 1, 3), 0.3), rtol=1e-2, atol=0.0)


def test_tiles_are_left_to_pytorch_again() -> None:
    """oneDNN multiplies bfloat16 by tiles too, on the same threads, with shapes of its own."""
    kernels = target("avx512-amx")
    a, b = torch.randn(128, 128).bfloat16(), torch.randn(128, 96).bfloat16()
    weight, codes = FORMATS["int4-g64"].encode(torch.randn(96, 128)), FORMATS["int8"].encode(torch.randn(64, 128))
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    kernel = kernels.lower("aquatint::gemm", (Slot, Slot, *weight, None), options)
    assert kernel is not None
    theirs, ours = a @ b, kernel(*codes)
    for _ in range(3):
        assert torch.equal(a @ b, theirs)
        assert torch.equal(kernel(*codes), ours)


def test_a_bound_call_keeps_what_its_kernel_holds() -> None:
    """Its addresses are of tensors that the kernel made: weights in panels, biases, vectors."""
    weight = FORMATS["int4-g64"].encode(torch.randn(32, 64))
    gemm = target("plain").lower(
        "aquatint::gemm", (Slot, Slot, *weight), {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    )
    encode = target("plain").lower("aquatint::quantize", (Slot, torch.ones(64)), {"format": "int8"})
    affine = target("plain").lower("aquatint::group_affine", (Slot, 8, torch.ones(64)), {"eps": 1e-5})
    linear = target("plain").lower("aten::linear.default", (Slot, torch.randn(16, 64), torch.randn(16)), {})
    calls = [
        (gemm, FORMATS["int8"].encode(torch.randn(4, 64))),
        (encode, [torch.randn(4, 64)]),
        (affine, [torch.randn(2, 5, 5, 64).permute(0, 3, 1, 2)]),
        (linear, [torch.randn(4, 64)]),
    ]
    del gemm, encode, affine, linear
    while calls:
        kernel, inputs = calls.pop()
        assert kernel is not None
        held = weakref.ref(getattr(kernel, "product", kernel))
        run = kernel.bind(kernel.results(*inputs), *inputs)
        del kernel
        gc.collect()
        assert held() is not None
        run()

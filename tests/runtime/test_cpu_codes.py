"""The compiled kernels of codes against the operators' meaning, on every instruction set that this machine has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import FORMATS
from aquatint.runtime import ops
from aquatint.runtime.cpu.native import KERNEL_SETS, kernel_set
from aquatint.runtime.cpu.target import Cpu
from aquatint.runtime.ops import Slot, meanings

from .kernels import assert_near, assert_projected, branch_rounding, rows, target

pytestmark = pytest.mark.native


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 5), st.booleans(), st.sampled_from([0, 1, 16, 32, 40]))
def test_quantize(kernels: str, format: str, seed: int, m: int, groups: int, smoothed: bool, rank: int) -> None:
    x = rows(seed, m, 64 * groups)
    random = torch.Generator().manual_seed(seed)
    smooth = torch.rand(64 * groups, generator=random) + 0.1 if smoothed else None
    down = torch.randn(rank, 64 * groups, generator=random).bfloat16() if rank else None
    kernel = target(kernels).lower("aquatint::quantize", (Slot, smooth, down), {"format": format})
    assert kernel is not None
    codes, scales, *h = kernel(x)
    expected = ops.quantize(x, smooth, down, format=format)
    assert torch.equal(codes, expected[0]), "codes are the same to the last bit"
    assert torch.equal(scales, expected[1])
    if rank:
        assert_projected(kernels, h[0], meanings.smoothed(x, smooth, None, None), down)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 60), st.integers(1, 5), st.sampled_from([None, 1e-6]),
    st.sampled_from(["none", "shared", "by sample", "odd"]), st.sampled_from([None, "gelu", "gelu_tanh", "silu"]),
    st.sampled_from([0, 16, 40]),
)  # fmt: skip
def test_quantize_with_what_stands_before(kernels, seed, batch, tokens, groups, eps, affine, activation, rank) -> None:
    k = 64 * groups
    random = torch.Generator().manual_seed(seed)
    x = rows(seed, batch * tokens, k).view(batch, tokens, k)
    shape = {"shared": (k,), "by sample": (batch, 1, k), "odd": (1, tokens, 1)}.get(affine)
    gain, offset = (None if shape is None else torch.randn(shape, generator=random) for _ in range(2))
    smooth = torch.rand(k, generator=random) + 0.1
    down = torch.randn(rank, k, generator=random).bfloat16() if rank else None
    options = {"format": "int8", "eps": eps, "activation": activation}
    slots = (None, None) if shape is None else (Slot, Slot)
    kernel = target(kernels).lower("aquatint::quantize", (Slot, smooth, down, *slots), options)
    assert kernel is not None
    values = (x,) if shape is None else (x, gain, offset)
    assert kernel.fits(*values) == (affine != "odd")
    if not kernel.fits(*values):
        return
    codes, scales, *h = kernel(*values)
    expected = ops.quantize(x, smooth, down, gain, offset, **options)
    assert (codes.int() - expected[0].int()).abs().max() <= 1, "a last digit may turn a rounding"
    torch.testing.assert_close(scales, expected[1], rtol=1e-4, atol=1e-30)
    if rank:
        plain = meanings.smoothed(x, smooth, gain, offset, eps=eps, activation=activation)
        assert_projected(kernels, h[0], plain, down)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole"])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 80), st.integers(1, 100), st.integers(1, 4),
    st.sampled_from([0, 8, 32]), st.booleans(), st.sampled_from([None, "gelu", "gelu_tanh", "silu"]),
)  # fmt: skip
def test_gemm(
    kernels: str, stored: str, format: str, seed: int, m: int, n: int, groups: int, rank: int, biased: bool, activation
) -> None:  # fmt: skip
    k = 64 * groups
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS[stored].encode(torch.randn(n, k, generator=random))
    codes = FORMATS[format].encode(rows(seed, m, k))
    bias = torch.randn(n, generator=random) if biased else None
    h = torch.randn(m, rank, generator=random) if rank else None
    up = torch.randn(n, rank, generator=random).bfloat16() if rank else None
    options = {"formats": [format, stored], "dtype": torch.float32, "activation": activation}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight, bias, Slot if rank else None, up), options)
    assert kernel is not None
    y = kernel(*codes, h) if rank else kernel(*codes)
    rounded = branch_rounding(kernels, ops.gemm, codes, weight, h, up, **options)
    assert_near(y, ops.gemm, *codes, *weight, bias, h, up, **options, rounded=rounded)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole"])
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 150), st.integers(1, 150), st.integers(5, 24), st.sampled_from([0, 40]), st.booleans()
)
def test_gemm_of_many_groups(
    kernels: str, stored: str, seed: int, m: int, n: int, groups: int, rank: int, finished: bool
) -> None:
    """With tiles one unit is finished, and the next panel unpacked, beside the steps of another: there are enough of them."""
    k, random = 64 * groups, torch.Generator().manual_seed(seed)
    weight, codes = FORMATS[stored].encode(torch.randn(n, k, generator=random)), FORMATS["int8"].encode(rows(seed, m, k))
    h, up = (torch.randn(s, rank, generator=random) if rank else None for s in (m, n))
    up = None if up is None else up.bfloat16()
    ends = {name: torch.randn(m, n, generator=random) for name in ("gate", "residual")} if finished else {}
    options = {"formats": ["int8", stored], "dtype": torch.float32}
    kernel = target(kernels).lower(
        "aquatint::gemm", (Slot, Slot, *weight, None, Slot if rank else None, up), options | dict.fromkeys(ends, Slot)
    )
    assert kernel is not None
    y = kernel(*codes, *(() if h is None else (h,)), *ends.values())
    rounded = branch_rounding(kernels, ops.gemm, codes, weight, h, up, **options)
    scaled = ends["gate"].abs() if finished else 1.0
    assert_near(y, ops.gemm, *codes, *weight, None, h, up, **options, **ends, rounded=rounded * scaled)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60), st.integers(1, 100), st.integers(1, 5), st.sampled_from([0, 8]), st.booleans())
def test_gemm_by_bytes(kernels: str, seed: int, m: int, n: int, groups: int, rank: int, extreme: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS["int8"].encode(torch.randn(n, 64 * groups, generator=random))
    codes = FORMATS["int8"].encode(rows(seed, m, 64 * groups))
    if extreme:
        weight.codes.fill_(127)
        codes.codes.fill_(-127)
    h, up = (torch.randn(s, rank, generator=random) if rank else None for s in (m, n))
    options = {"formats": ["int8", "int8"], "dtype": torch.float32}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight, None, Slot if rank else None, up), options)
    assert (kernel is None) == (kernels in ("avx2", "avx512")), "two products of bytes do not fit 16 bits"
    if kernel is None:
        return
    y = kernel(*codes, h) if rank else kernel(*codes)
    rounded = branch_rounding(kernels, ops.gemm, codes, weight, h, up, **options)
    assert_near(y, ops.gemm, *codes, *weight, None, h, up, **options, rounded=rounded)


@pytest.mark.parametrize("kernels", ["plain", "avx512-vnni", "avx512-amx"])
def test_more_products_of_bytes_than_32_bits_hold(kernels: str) -> None:
    k = 64 * 2100  # 127 * 127 * k is more than 2^31
    weight = FORMATS["int8"].encode(torch.full((5, k), 1.0))
    codes = FORMATS["int8"].encode(torch.full((13, k), -1.0))
    options = {"formats": ["int8", "int8"], "dtype": torch.float32}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight), options)
    assert kernel is not None
    torch.testing.assert_close(kernel(*codes), torch.full((13, 5), -float(k)))


@pytest.mark.parametrize("kernels", ["plain", "avx512-vnni"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(1, 2), st.integers(1, 40), st.integers(0, 1))
def test_conv2d_by_bytes(kernels: str, seed: int, groups: int, n: int, padding: int) -> None:
    random = torch.Generator().manual_seed(seed)
    codes = FORMATS["int8"].encode(rows(seed, 2 * 5 * 6, 64 * groups).view(2, 5, 6, 64 * groups))
    weight = FORMATS["int8"].encode(torch.randn(n, 3, 3, 64 * groups, generator=random))
    geometry = {"stride": [1, 1], "padding": [padding] * 2, "dilation": [1, 1]}
    options = {"formats": ["int8", "int8"], "dtype": torch.float32, **geometry}
    kernel = target(kernels).lower("aquatint::conv2d", (Slot, Slot, *weight), options)
    assert kernel is not None
    assert_near(kernel(*codes), ops.conv2d, *codes, *weight, **options)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 18), st.integers(1, 100), st.integers(1, 20), st.booleans(),
    st.sampled_from([None, "gelu", "silu"]),
)  # fmt: skip
def test_gemm_of_plain_numbers(kernels: str, seed: int, m: int, n: int, groups: int, biased: bool, activation) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS["int4-g64"].encode(torch.randn(n, 64 * groups, generator=random))
    bias = torch.randn(n, generator=random) if biased else None
    options = {"formats": [None, "int4-g64"], "dtype": torch.float32, "activation": activation}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, None, *weight, bias), options)
    assert kernel is not None
    x = rows(seed, m, 64 * groups)
    assert kernel.fits(x) == (m <= 16)
    if m > 16:
        return
    assert_near(kernel(x), ops.gemm, x, None, *weight, bias, **options)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 18), st.integers(1, 100), st.integers(1, 200), st.booleans(),
    st.sampled_from([None, "gelu", "silu"]), st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_gemm_of_plain_numbers_by_bytes(kernels, seed, m, n, k, biased, activation, dtype) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS["int8"].encode(torch.randn(n, k, generator=random))
    bias = torch.randn(n, generator=random) if biased else None
    options = {"formats": [None, "int8"], "dtype": dtype, "activation": activation}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, None, *weight, bias), options)
    assert kernel is not None
    x = torch.randn(m, k, generator=random)
    assert kernel.fits(x) == (m <= 16)
    if m > 16:
        return
    assert_near(kernel(x), ops.gemm, x, None, *weight, bias, **options, rtol=1e-4 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole"])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from([(1, 5, 7), (2, 8, 8), (1, 1, 3), (2, 17, 4), (1, 16, 16), (2, 24, 32)]),
    st.integers(1, 3), st.integers(1, 40),
    st.sampled_from([(3, 3), (1, 1), (2, 2), (1, 3)]), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2),
    st.sampled_from([0, 8, 24]), st.booleans(),
)  # fmt: skip
def test_conv2d(kernels, stored, format, seed, image, groups, n, taps, stride, padding, dilation, rank, biased) -> None:
    batch, height, width = image
    if any(size + 2 * padding < dilation * (t - 1) + 1 for size, t in zip((height, width), taps, strict=True)):
        return
    channels = 64 * groups
    random = torch.Generator().manual_seed(seed)
    codes = FORMATS[format].encode(rows(seed, batch * height * width, channels).view(batch, height, width, channels))
    weight = FORMATS[stored].encode(torch.randn(n, *taps, channels, generator=random))
    bias = torch.randn(n, generator=random) if biased else None
    h = torch.randn(batch, height, width, taps[0] * taps[1] * rank, generator=random) if rank else None
    up = torch.randn(n, rank, generator=random).bfloat16() if rank else None
    geometry = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2}
    options = {"formats": [format, stored], "dtype": torch.float32, **geometry}
    kernel = target(kernels).lower("aquatint::conv2d", (Slot, Slot, *weight, bias, Slot if rank else None, up), options)
    assert kernel is not None
    y = kernel(*codes, h) if rank else kernel(*codes)
    rounded = branch_rounding(kernels, ops.conv2d, codes, weight, h, up, **options)
    assert_near(y, ops.conv2d, *codes, *weight, bias, h, up, **options, rounded=rounded)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 60), st.integers(1, 50),
    *(st.sampled_from(["none", "full", "by sample", "shared", "fixed", "odd"]) for _ in range(2)),
)  # fmt: skip
def test_gate_and_residual(kernels: str, seed: int, batch: int, tokens: int, n: int, gate: str, residual: str) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS["int4-g64"].encode(torch.randn(n, 64, generator=random))
    codes = FORMATS["int8"].encode(torch.randn(batch, tokens, 64, generator=random))
    shapes = {"full": (batch, tokens, n), "by sample": (batch, 1, n), "shared": (n,), "fixed": (n,), "odd": (1, tokens, 1)}
    given = {k: torch.randn(shapes[s], generator=random) for k, s in (("gate", gate), ("residual", residual)) if s != "none"}
    fixed = {"gate": gate == "fixed", "residual": residual == "fixed"}
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    slots = {k: v if fixed[k] else Slot for k, v in given.items()}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight), {**options, **slots})
    assert kernel is not None
    y = kernel(*codes, *(v for k, v in given.items() if not fixed[k]))
    assert_near(y, ops.gemm, *codes, *weight, **options, **given)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("shape", [(2, 20, 6, 5), (2, 20, 1, 1), (20, 1, 1)])
def test_a_convolution_with_gate_and_residual(kernels: str, shape: tuple[int, ...]) -> None:
    weight = FORMATS["int4-g64"].encode(torch.randn(20, 3, 3, 64))
    codes = FORMATS["int8"].encode(torch.randn(2, 6, 5, 64))
    gate, residual = torch.randn(shape), torch.randn(shape)
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32, "activation": "silu",
               "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}  # fmt: skip
    kernel = target(kernels).lower("aquatint::conv2d", (Slot, Slot, *weight), {**options, "gate": Slot, "residual": Slot})
    assert kernel is not None
    expected = ops.conv2d(*codes, *weight, **options, gate=gate, residual=residual)
    torch.testing.assert_close(kernel(*codes, gate, residual), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("n", [1024, 1040, 1030])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_results_that_pass_the_caches_by(kernels: str, n: int, activation: str | None) -> None:
    weight = FORMATS["int4-g64"].encode(torch.randn(n, 64))
    codes = FORMATS["int8"].encode(torch.randn(3200, 64))
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32, "activation": activation}
    kernel = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight), options)
    assert kernel is not None
    y = kernel(*codes)
    assert y.nbytes > 12 << 20, "kPassing in csrc/cpu/product.h"
    assert_near(y, ops.gemm, *codes, *weight, **options)


def test_extremes_fit_their_sums() -> None:
    """Every code at its largest, of either sign: the 16-bit sums of a group must hold them."""
    codes = torch.tensor([[127] * 64, [-127] * 64, [127, -127] * 32], dtype=torch.int8)
    weight = FORMATS["int4-g64"].encode_with(torch.tensor([[-8.0] * 64, [7.0] * 64]), torch.ones(2, 1, dtype=torch.bfloat16))
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    for name in KERNEL_SETS:
        if kernels := kernel_set(name):
            kernel = Cpu(kernels).lower("aquatint::gemm", (Slot, Slot, *weight), options)
            assert kernel is not None
            expected = ops.gemm(codes, torch.ones(3, 1), *weight, **options)
            assert torch.equal(kernel(codes, torch.ones(3, 1)), expected), name


def test_images_and_batches() -> None:
    x = torch.randn(2, 64, 5, 3)
    kernel = target("plain").lower("aquatint::quantize", (Slot,), {"format": "int8", "axis": 1})
    assert kernel is not None
    codes, scales = kernel(x)
    assert codes.shape == (2, 5, 3, 64)
    assert scales.shape == (2, 5, 3, 1)
    assert torch.equal(codes, ops.quantize(x, format="int8", axis=1)[0])


@pytest.mark.parametrize("rows", [77, 401])
@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_threads_do_not_change_a_bit(kernels: str, rows: int) -> None:
    """Few rows are one block of a product's, of which threads share the columns; of many each thread has blocks of its own."""
    weight = FORMATS["int4-g64"].encode(torch.randn(200, 256))
    up = torch.randn(200, 32)
    quantize = target(kernels).lower("aquatint::quantize", (Slot, None, torch.randn(32, 256)), {"format": "int8"})
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    gemm = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight, None, Slot, up), options)
    assert quantize is not None
    assert gemm is not None
    x, results = torch.randn(rows, 256), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gemm(*quantize(x)))
    finally:
        torch.set_num_threads(2)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_nan_reaches_the_output(kernels: str) -> None:
    weight = FORMATS["int4-g64"].encode(torch.randn(8, 64))
    quantize = target(kernels).lower("aquatint::quantize", (Slot,), {"format": "int8"})
    options = {"formats": ["int8", "int4-g64"], "dtype": torch.float32}
    gemm = target(kernels).lower("aquatint::gemm", (Slot, Slot, *weight), options)
    assert quantize is not None
    assert gemm is not None
    x = torch.zeros(2, 64)
    x[1, 5] = torch.nan
    y = gemm(*quantize(x))
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


@pytest.mark.native
@pytest.mark.parametrize("name", KERNEL_SETS)
def test_a_weight_is_laid_out_once_for_all_that_hold_it(name: str) -> None:
    cpu, random = target(name), torch.Generator().manual_seed(0)
    codes, scales = FORMATS["int4-g64"].encode(torch.randn(128, 64, generator=random))
    ups = torch.randn(2, 128, 16, generator=random).bfloat16()
    options = {"formats": ("int8", "int4-g64"), "dtype": torch.float32}

    def made(scales: torch.Tensor, up: torch.Tensor):
        return cpu.lower("aquatint::gemm", (Slot, Slot, codes, scales, None, Slot, up), options)

    first, second, other = made(scales, ups[0]), made(scales.clone(), ups[1]), made(2 * scales, ups[0])
    assert first.product.weight is second.product.weight
    assert first.product.weight is not other.product.weight
    x, h = FORMATS["int8"].encode(torch.randn(5, 64, generator=random)), torch.randn(5, 16, generator=random)
    assert not torch.equal(first(*x, h), second(*x, h))
    assert len(cpu.kernels.packed) == 2
    del first, second
    assert len(cpu.kernels.packed) == 1

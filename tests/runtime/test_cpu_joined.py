"""A product and the quantize behind it in one kernel, where processors have tiles, against the operators' meaning."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import FORMATS
from aquatint.compiler.powers import rounded
from aquatint.runtime import ops
from aquatint.runtime.ops import Slot, meanings

from .kernels import assert_projected, rows, target

pytestmark = pytest.mark.native
KERNELS = "avx512-amx"


def kernel_of(*arguments: Any, **options: Any) -> Any:
    kernel = target(KERNELS).lower("aquatint::gemm_quantize", arguments, options)
    assert kernel is not None
    return kernel


@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole", "int8"])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 150), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0, 32]),
    st.sampled_from([0, 16, 40]), st.booleans(), st.sampled_from([None, "gelu", "gelu_tanh", "silu"]),
    st.sampled_from(["none", "full", "shared", "odd"]),
)  # fmt: skip
def test_gemm_quantize(stored, seed, m, columns, groups, rank, next_rank, smoothed, activation, gate) -> None:
    n, k = 64 * columns, 64 * groups
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS[stored].encode(torch.randn(n, k, generator=random))
    codes = FORMATS["int8"].encode(rows(seed, m, k).view(1, m, k))
    # h as tiles read it: what rounding it does is tested with the product alone
    h, up = (torch.randn(1, m, rank).bfloat16().float(), torch.randn(n, rank).bfloat16()) if rank else (None, None)
    smooth = torch.rand(n, generator=random) + 0.1 if smoothed else None
    down = torch.randn(next_rank, n, generator=random).bfloat16() if next_rank else None
    shape = {"full": (1, m, n), "shared": (n,), "odd": (1, m, 1)}.get(gate)
    factor = None if shape is None else torch.randn(shape, generator=random)
    options = {"formats": ["int8", stored], "dtype": torch.float32, "activation": activation, "into": "int8"}
    gates = {} if factor is None else {"gate": Slot}
    kernel = kernel_of(Slot, Slot, *weight, None, Slot if rank else None, up, smooth, down, **options, **gates)
    found = kernel(*codes, *(v for v in (h, factor) if v is not None))

    expected = ops.gemm_quantize(*codes, *weight, None, h, up, smooth, down, **options, gate=factor)
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert (found[0].int() - expected[0].int()).abs().max() <= 1, "what is encoded was rounded to bfloat16"
    torch.testing.assert_close(found[1], expected[1], rtol=5e-4, atol=1e-30)
    if next_rank:
        y = ops.gemm(*codes, *weight, None, h, up, **{k: v for k, v in options.items() if k != "into"}, gate=factor)
        assert_projected(KERNELS, found[2][0], meanings.smoothed(y[0], smooth, None, None), down)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 150), st.integers(1, 5), st.sampled_from([1, 16, 40]))
def test_the_next_branch_reads_the_next_codes(seed, m, columns, rank) -> None:
    n, random = 64 * columns, torch.Generator().manual_seed(seed)
    weight, codes = (
        FORMATS["int4-g64-whole"].encode(torch.randn(n, 128, generator=random)),
        FORMATS["int8"].encode(rows(seed, m, 128)),
    )
    down = rounded(torch.randn(rank, n, generator=random), 0)
    options = {"formats": ["int8", "int4-g64-whole"], "dtype": torch.float32, "into": "int8", "branch": "int8"}
    kernel = kernel_of(Slot, Slot, *weight, None, None, None, None, down, **options)
    assert kernel.quantize.call.branch_bits == 8
    found, scales, h = kernel(*codes)
    expected = (found.float() * scales) @ down.T
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_threads_do_not_change_a_bit() -> None:
    """Though more threads work in smaller blocks."""
    weight, codes = FORMATS["int4-g64-whole"].encode(torch.randn(1088, 256)), FORMATS["int8"].encode(torch.randn(333, 256))
    options = {"formats": ["int8", "int4-g64-whole"], "dtype": torch.float32, "activation": "gelu", "into": "int8"}
    kernel, results = kernel_of(Slot, Slot, *weight, None, None, None, None, torch.randn(32, 1088), **options), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernel(*codes))
    finally:
        torch.set_num_threads(2)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_rows_of_zeros_and_of_no_numbers() -> None:
    weight, codes = FORMATS["int8"].encode(torch.randn(64, 64)), FORMATS["int8"].encode(torch.zeros(3, 64))
    codes.scales[1] = torch.nan
    options = {"formats": ["int8", "int8"], "dtype": torch.float32, "into": "int8"}
    found, scales, h = kernel_of(Slot, Slot, *weight, None, None, None, None, torch.randn(4, 64), **options)(*codes)
    assert not found[[0, 2]].any()
    assert scales[[0, 2]].isfinite().all()
    assert scales[1].isnan()
    assert h[1].isnan().all()
    assert not h[[0, 2]].any()


def test_where_there_is_no_such_kernel() -> None:
    assert not target("plain").joins(1024, "int8")
    amx = target(KERNELS)
    assert amx.joins(1024, "int8")
    assert not amx.joins(1000, "int8"), "not whole groups"
    assert not amx.joins(1024, "int4-g64"), "its groups have scales of their own"


def test_a_bound_call_keeps_what_it_writes_to() -> None:
    weight, codes = FORMATS["int8"].encode(torch.randn(64, 64)), FORMATS["int8"].encode(torch.randn(3, 64))
    kernel = kernel_of(Slot, Slot, *weight, formats=["int8", "int8"], dtype=torch.float32, into="int8")
    results = kernel.results(*codes)
    alive = weakref.ref(results[0])
    run = kernel.bind(results, *codes)
    del results
    assert alive() is not None
    run()
    del run
    assert alive() is None

"""The kernels of edits against the operators' meaning, and each row the same to the last bit however many are computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import FORMATS
from aquatint.compiler.regions import Edited, Joined, Lookup, Places, Reach, Regions, Rest, Seen, Squares
from aquatint.runtime import ops
from aquatint.runtime.cpu.native import KERNEL_SETS
from aquatint.runtime.ops import Slot

from .kernels import target

pytestmark = pytest.mark.native
GEOMETRY = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}


def a_table(random: torch.Generator, outputs: int, taps: int, rows: int) -> torch.Tensor:
    return torch.randint(-1, rows, (outputs, taps), generator=random, dtype=torch.int32)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 2), st.integers(1, 90), st.integers(1, 40), st.integers(1, 9), st.integers(1, 70))
def test_rowwise_convolution(kernels, seed, batch, outputs, rows, channels, width) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, rows, 1, generator=random)
    weight, bias = torch.randn(width, channels, 3, 3, generator=random), torch.randn(width, generator=random)
    table = a_table(random, outputs, 9, rows)
    kernel = target(kernels).lower("aquatint::rowwise_conv2d", (Slot, weight, bias), {**GEOMETRY, "table": Slot})
    assert kernel is not None
    found = kernel(x, table)
    torch.testing.assert_close(found, ops.rowwise_conv2d(x, weight, bias, **GEOMETRY, table=table), rtol=1e-4, atol=1e-4)
    alone = kernel(x, table[-1:])
    assert torch.equal(alone, found[:, :, -1:])


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("by_squares", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 2), st.tuples(st.integers(3, 12), st.integers(3, 12)), st.integers(0, 2),
    st.sampled_from([32, 48, 80]), st.integers(1, 70), st.booleans(),
)  # fmt: skip
def test_an_image_and_its_places_give_the_same_bits(kernels, by_squares, seed, batch, grid, padding, channels, width, biased):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, *grid, generator=random)
    weight = torch.randn(width, channels, 3, 3, generator=random)
    bias = torch.randn(width, generator=random) if biased else None
    options = {**GEOMETRY, "padding": [padding] * 2, "by_squares": by_squares}
    whole = target(kernels).lower("aquatint::rowwise_conv2d", (Slot, weight, bias), options)(x)
    torch.testing.assert_close(whole, ops.rowwise_conv2d(x, weight, bias, **options), rtol=1e-4, atol=1e-4 * channels)

    size = tuple(whole.shape[2:])
    reach = Reach.of_convolution(grid, size, (3, 3), (1, 1), (padding, padding), (1, 1))
    mask = torch.rand(size, generator=random) < 0.3
    mask[size[0] // 2, size[1] // 2] = True
    regions, edited = Regions(mask, margin=0), Edited(size)
    within = Seen(edited, reach)
    rows = ops.take(x, regions.index(Places(within, grid)), axis=2, axes=2)
    table = regions.index(Lookup(edited, within, reach))
    squares = [regions.index(Squares(edited, within, reach))] if by_squares else []
    slots = {"table": Slot, **({"squares": Slot} if by_squares else {})}
    some = target(kernels).lower("aquatint::rowwise_conv2d", (Slot, weight, bias), {**options, **slots})(rows, table, *squares)
    assert torch.equal(some.squeeze(3), whole.flatten(2)[..., mask.flatten()])


def test_the_rest_of_a_region() -> None:
    mask = torch.zeros(9, 7, dtype=torch.bool)
    mask[0:3, 2:7] = True
    regions, edited = Regions(mask, margin=0), Edited((9, 7))
    within = Joined(edited, Seen(edited, Reach.of_convolution((9, 7), (9, 7), (3, 3), (1, 1), (1, 1), (1, 1))))
    assert len(regions.index(Rest(within, edited))) == regions.count(within) - mask.sum()


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole"])
@pytest.mark.parametrize("format", ["int8", "int4-g64"])
@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 2), st.integers(1, 60), st.integers(1, 30), st.integers(1, 2), st.sampled_from([0, 8])
)
def test_quantized_convolution(kernels, format, stored, seed, batch, outputs, rows, groups, rank) -> None:
    random = torch.Generator().manual_seed(seed)
    codes = FORMATS[format].encode(torch.randn(batch, rows, 1, 64 * groups, generator=random))
    weight = FORMATS[stored].encode(torch.randn(40, 3, 3, 64 * groups, generator=random))
    h = torch.randn(batch, rows, 1, 9 * rank, generator=random) if rank else None
    up = torch.randn(40, rank, generator=random) if rank else None
    table = a_table(random, outputs, 9, rows)
    residual = torch.randn(batch, 40, outputs, 1, generator=random)
    options = {**GEOMETRY, "formats": [format, stored], "dtype": torch.float32}
    arguments = (Slot, Slot, *weight, None, Slot if rank else None, up)
    kernel = target(kernels).lower("aquatint::conv2d", arguments, {**options, "residual": Slot, "table": Slot})
    assert kernel is not None
    found = kernel(*codes, *([h] if rank else []), residual, table)
    expected = ops.conv2d(*codes, *weight, None, h, up, **options, residual=residual, table=table)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=3e-3 * expected.abs().max().item())


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize("format", [None, "int8", "int4-g64"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
def test_recall_and_merge(kernels, format, seed, batch, places, groups) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, places, 64 * groups, generator=random)
    kept = FORMATS[format].encode(x) if format else (x, None)
    index = torch.randperm(places, generator=random)[: 1 + places // 2]
    given = [v for v in kept if v is not None]
    slots = tuple(None if v is None else Slot for v in kept)
    recall = target(kernels).lower("aquatint::recall", (*slots, Slot), {"format": format})
    assert torch.equal(recall(*given, index), ops.recall(*kept, index, format=format))
    rows = torch.randn(batch, len(index), 64 * groups, generator=random)
    behind = target(kernels).lower("aquatint::recall", (*slots, Slot, Slot), {"format": format})
    for before in (rows, rows.transpose(0, 1).contiguous().transpose(0, 1), rows[:, :0]):
        assert torch.equal(behind(*given, index, before), ops.recall(*kept, index, before, format=format))
    merge = target(kernels).lower("aquatint::merge", (*slots, Slot, Slot), {"format": format})
    assert torch.equal(merge(*given, rows, index), ops.merge(*kept, rows, index, format=format))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_take_of_images_and_tokens(memory: torch.memory_format) -> None:
    image, index = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory), torch.tensor([7, 0, 19])
    taken = target("plain").lower("aquatint::take", (Slot, Slot), {"axis": 2, "axes": 2})
    assert torch.equal(taken(image, index), ops.take(image, index, axis=2, axes=2))
    tokens = torch.randn(2, 20, 3)
    taken = target("plain").lower("aquatint::take", (Slot, Slot), {"axis": 1})
    assert torch.equal(taken(tokens, index), tokens[:, index])


def test_a_row_of_a_product_is_the_same_however_many_there_are() -> None:
    weight = torch.randn(100, 64)
    kernel = target("plain").lower("aquatint::rowwise_linear", (Slot, weight), {})
    x = torch.randn(1, 50, 64)
    torch.testing.assert_close(kernel(x), ops.rowwise_linear(x, weight), rtol=1e-4, atol=1e-4)
    assert torch.equal(kernel(x)[:, 3:4], kernel(x[:, 3:4]))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.integers(1, 2), st.integers(1, 20), st.sampled_from([(4, 32), (32, 320), (2, 6)]))
def test_moved_statistics_are_those_of_what_it_has_become(kernels, seed, batch, moved, sizes) -> None:
    groups, channels = sizes
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, 6, 5, generator=random) * 3 + 1
    new = x.clone()
    new.flatten(2)[..., :moved] += torch.randn(batch, channels, moved, generator=random)
    rows = [v.flatten(2)[..., :moved].transpose(1, 2) for v in (x, new)]
    options = {"groups": groups, "count": 30, "eps": 1e-5}
    kernel = target(kernels).lower("aquatint::moved_affine", (Slot,) * 4, options)
    before = ops.group_affine(x, groups, eps=1e-5)
    for found in (kernel(*before, *rows), ops.moved_affine(*before, *rows, **options)):
        for ours, exact in zip(found, ops.group_affine(new, groups, eps=1e-5), strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, kernel(*before, rows[0], rows[0]), before))

"""What of the CUDA target needs no GPU: packing, launch rules, refusals, the structs."""

from __future__ import annotations

import ctypes
from math import ceil

import pytest
import torch

from aquatint.compiler.formats import format_named, unpack_nibbles
from aquatint.runtime.cuda.calls import ConvCall, GemvCall, MomentsCall, ProductCall, QuantizeCall, RotaryCall, TurnedCall
from aquatint.runtime.cuda.launch import slices_for
from aquatint.runtime.cuda.operands import inverse, spread
from aquatint.runtime.cuda.pack import (
    packed_blocks,
    packed_bytes,
    packed_down,
    packed_down_by_lanes,
    packed_groups,
    packed_nibbles,
    packed_up,
)  # fmt: skip
from aquatint.runtime.cuda.refusals import CONV_FORMATS, product_refusal, quantize_refusal
from aquatint.runtime.cuda.sm80 import SM75, SM80, SM120
from aquatint.runtime.cuda.sm90 import SHARED, SM90, TOKENS, can_quantize, product_plan, quantize_plan, turned_plan
from aquatint.runtime.cuda.target import FAMILIES, cuda
from aquatint.runtime.cuda.turned import in_pairs

FOUR = ("int8", "int4-g64-whole")


def test_each_byte_lies_where_its_thread_looks() -> None:
    codes = torch.randint(-127, 128, (200, 192), dtype=torch.int8)
    blocks = packed_bytes(codes, 256).view(torch.int8)
    assert blocks.shape == (2, 2, 16384)
    for n, k in ((0, 0), (7, 3), (8, 16), (63, 31), (64, 32), (129, 130), (199, 191)):
        group, warp, half, row = n % 128 // 64, n % 64 // 16, n % 16 // 8, n % 8
        step, far, quad, byte = k % 128 // 32, k % 32 // 16, k % 16 // 4, k % 4
        thread, register = warp * 32 + row * 4 + quad, far * 2 + half
        place = ((group * 4 + step) * 128 + thread) * 16 + register * 4 + byte
        assert blocks[n // 128, k // 128, place] == codes[n, k]
    assert blocks[1, 1, -1] == 0


def test_nibbles_widen_to_codes_times_scale() -> None:
    number = format_named("int4-g64-whole")
    stored = number.encode(torch.randn(130, 320))
    groups = number.split_scales(stored.scales)[1].to(torch.uint8)
    blocks = packed_nibbles(stored.codes, groups, 256)
    assert blocks.shape == (2, 3, 8448)
    codes = (unpack_nibbles(stored.codes).to(torch.int8) << 4 >> 4).int()
    for n, k in ((0, 0), (5, 17), (8, 64), (77, 100), (129, 319), (128, 255)):
        group, warp, half, row = n % 128 // 64, n % 64 // 16, n % 16 // 8, n % 8
        step, far, quad, byte = k % 128 // 32, k % 32 // 16, k % 16 // 4, k % 4
        block = blocks[n // 128, k // 128]
        word = ((group * 2 + step // 2) * 128 + warp * 32 + row * 4 + quad) * 16 + step % 2 * 8 + half * 4 + byte
        nibble = int(block[word]) >> 4 if far else int(block[word]) & 15
        scale = int(block[8192 + (group * 32 + warp * 8 + row) * 4 + k % 128 // 64 * 2 + half])
        assert nibble - 8 == codes[n, k]
        assert scale == groups[n, k // 64]


def test_groups_of_nibbles_lie_as_fragments() -> None:
    stored = format_named("int4-g64").encode(torch.randn(130, 320))
    blocks = packed_groups(stored.codes, stored.scales, 256)
    assert blocks.shape == (2, 2, 17408)
    codes = unpack_nibbles(stored.codes)
    for n, k in ((0, 0), (5, 17), (8, 64), (77, 100), (129, 319), (128, 255)):
        half, part, far, row = n % 128 // 64, n % 64 // 16, n % 16 // 8, n % 8
        group, upper, quad, nibble = k % 256 // 64, k % 64 // 32, k % 32 // 8, k % 8
        place = (group * 2 + half) * 4 + part
        block = blocks[n // 128, k // 256]
        byte = int(block[(place * 32 + row * 4 + quad) * 16 + (upper * 2 + far) * 4 + nibble // 2])
        assert (byte >> 4 if nibble % 2 else byte & 15) == codes[n, k]
        scales = block[16384:].clone().view(torch.bfloat16)
        assert scales[(place * 8 + row) * 2 + far] == stored.scales[n, k // 64]


def test_blocks_of_scales_lie_where_the_product_looks() -> None:
    stored = format_named("nvfp4").encode(torch.randn(130, 320))
    blocks = packed_blocks(stored.codes, stored.scales[:, 4:], 256)
    assert blocks.shape == (2, 2, 18432)
    for n, k in ((0, 0), (5, 17), (8, 64), (77, 100), (129, 319)):
        place = (k % 256 // 64 * 2 + n % 128 // 64) * 4 + n % 64 // 16
        lane = n % 8 * 4 + n % 16 // 8  # that is asked for the scales of this row
        word = place * 16 + lane % 2 * 8 + lane // 4
        assert blocks[n // 128, k // 256, 16384 + word * 4 + k % 64 // 16] == stored.scales[n, 4 + k // 16]


def test_projections_lie_as_fragments() -> None:
    up, down = torch.randn(100, 24).bfloat16(), torch.randn(24, 64).bfloat16()
    blocks = packed_up(up, 128, 2)
    for n, r in ((0, 0), (9, 3), (70, 17), (99, 23)):
        thread = n % 64 // 16 * 32 + n % 8 * 4 + r % 8 // 2
        assert blocks[n // 64, r // 16, thread, (r % 16 // 8 * 2 + n % 16 // 8) * 2 + r % 2] == up[n, r]
    blocks = packed_down(down, 2)
    for r, k in ((0, 0), (9, 3), (23, 63), (17, 40)):
        lane = r % 8 * 4 + k % 8 // 2
        assert blocks[k // 16, r // 16, lane, (r % 16 // 8 * 2 + k % 16 // 8) * 2 + k % 2] == down[r, k]
    blocks = packed_down_by_lanes(down, 2)
    for r, k in ((0, 0), (9, 3), (23, 63), (17, 40)):
        assert blocks[k // 32, r // 8, r % 8 * 4 + k % 32 // 8, k % 8] == down[r, k]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(4608, 3072, 12288), (4608, 12288, 3072), (1024, 1152, 4608), (16384, 2240, 5600), (1, 64, 8)]
)
def test_a_product_is_covered_by_its_tiles(m: int, k: int, n: int, bits: int) -> None:
    plan = product_plan(m, n, k, ("int8", {4: "int4-g64-whole", 8: "int8"}[bits]), 32, 132)
    assert plan.tokens in TOKENS
    assert plan.m_tiles * plan.tokens >= m > (plan.m_tiles - 1) * plan.tokens
    assert plan.n_tiles * 128 >= n > (plan.n_tiles - 1) * 128
    assert plan.k_tiles * 128 >= k
    assert plan.launch.shared <= SHARED
    assert plan.launch.grid <= 132
    assert plan.launch.kernel == f"product_w{bits}_t{plan.tokens}_s2"


def test_launches_that_are_known_to_be_good() -> None:
    plan = product_plan(4608, 12288, 3072, FOUR, 32, 132, tokens=256)
    assert (plan.tokens, plan.launch.grid, plan.m_tiles, plan.n_tiles) == (256, 132, 18, 96)
    assert product_plan(4608, 3072, 12288, FOUR, 32, 132).tokens == 224, "three waves and a bit of 256 tokens would be four"
    rows = quantize_plan(4608, 12288, 32, "int8", 132)
    assert (rows.launch.kernel, rows.blocks, rows.share, rows.launch.grid) == ("quantize_s2", 8, 1536, 144 * 8)
    assert quantize_plan(1024, 1152, 32, "int8", 132).blocks == 6, "one block a cluster would leave most of the GPU idle"


def test_launches_of_queries_and_keys() -> None:
    plan = turned_plan(4608, 3072, 3072, FOUR, 32, 132)
    assert (plan.launch.file, plan.launch.kernel, plan.tokens) == ("turned_sm90", "turned_w4_t224_s2", 224)
    assert plan.launch.shared <= SHARED
    assert plan.launch.shared > product_plan(4608, 3072, 3072, FOUR, 32, 132, tokens=224).launch.shared, "squares of heads"
    older = SM80.turned(1000, 4608, 2304, FOUR, 32, 108, None)  # type: ignore[misc]
    assert (older.launch.file, older.launch.kernel, older.launch.grid) == ("turned_sm80", "turned_w4a8_s2", 8 * 36)
    assert SM75.turned(9, 64, 64, ("int4-g64",) * 2, 0, 40, None).launch.shared == 41472 + 4096  # type: ignore[misc]
    assert SM120.turned is None


def test_heads_lie_with_what_they_turn_with() -> None:
    assert in_pairs(32, 16, halves=False).tolist()[:16] == [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    assert in_pairs(64, 32, halves=True).tolist()[32:48] == [*range(32, 40), *range(48, 56)]


def test_launches_since_ampere() -> None:
    for formats, kernel, shared, depths in (
        (FOUR, "product_w4a8_s2", 49664, 18), (("int8", "int8"), "product_w8a8_s2", 65536, 18),
        (("int4-g64", "int4-g64"), "product_w4a4_s2", 71680, 9),
    ):  # fmt: skip
        plan = SM80.product(1000, 4600, 2304, formats, 32, 108, None)
        assert (plan.launch.kernel, plan.launch.shared, plan.launch.grid) == (kernel, shared, 8 * 36)
        assert (plan.m_tiles, plan.n_tiles, plan.k_tiles, plan.box) == (8, 36, depths, None)
        assert not plan.launch.overlaps
    for number, rank in (("int8", 32), ("int4-g64", 64), ("int8", 0)):
        launch = SM80.quantize(1000, 1152, rank, number, 108).launch
        assert launch.kernel == f"quantize_a{format_named(number).bits}_s{slices_for(rank)}"
        assert (launch.grid, launch.block) == (63, 256)
        assert launch.shared < 48 * 1024, "what a block may have without asking"
    shared = [SM75.product(1000, 4600, 2304, formats, 32, 40, None).launch.shared for formats in SM75.products]
    assert shared == [49664, 65536, 41472], "of 64 KB: two stages where they fit, and what results leave through"
    assert not any("int4-g64" in formats for formats in SM120.products), "no integers of 4 bits there"
    for family, shared in FAMILIES.values():
        for formats in family.products:
            assert family.product(4608, 3072, 3072, formats, 64, 84, None).launch.shared <= shared
            assert not family.turned or family.turned(4608, 3072, 3072, formats, 64, 84, None).launch.shared <= shared
            if formats in CONV_FORMATS:
                assert family.conv(4096, 320, 320, 9, formats, 8).launch.shared <= shared


def test_launches_of_convolutions() -> None:
    for formats, kernel, shared, depths in (
        (FOUR, "conv_w4a8_s2", 50688, 27), (("int8", "int8"), "conv_w8a8_s2", 66560, 27),
        (("int4-g64", "int4-g64"), "conv_w4a4_s2", 71680, 12),
    ):  # fmt: skip
        plan = SM80.conv(4096, 320, 320, 9, formats, 8)
        assert (plan.launch.kernel, plan.launch.shared, plan.launch.grid) == (kernel, shared, 32 * 3)
        assert (plan.m_tiles, plan.n_tiles, plan.k_tiles) == (32, 3, depths), "320 channels are three tiles, or five groups"


@pytest.mark.parametrize("k", [16, 256, 1152, 2240, 3072, 12288, 15360, 25600])
@pytest.mark.parametrize("rank", [0, 32, 64])
def test_rows_are_covered_by_the_blocks_of_a_cluster(k: int, rank: int) -> None:
    plan = quantize_plan(1000, k, rank, "int8", 132)
    assert plan.share % 16 == 0
    assert plan.share * plan.blocks >= k > plan.share * (plan.blocks - 1)
    assert plan.launch.grid == ceil(1000 / 32) * plan.blocks
    assert can_quantize(k, rank) == (plan.launch.shared <= SHARED) == ((k, rank) != (25600, 64))


def test_structs_are_as_long_as_those_of_the_kernels() -> None:
    assert ctypes.sizeof(ProductCall) == 8 * 8 + 2 * 24 + 10 * 4, "nine, and what fills the last eight bytes"
    assert ctypes.sizeof(TurnedCall) == ctypes.sizeof(ProductCall) + 2 * 8 + 4 * 4
    assert ctypes.sizeof(ConvCall) == ctypes.sizeof(ProductCall) + 8 + 8 * 4 + 6 * 4
    assert ctypes.sizeof(MomentsCall) == 6 * 8 + 10 * 4
    assert ctypes.sizeof(RotaryCall) == 5 * 8 + 8 * 4, "seven, and what fills the last eight bytes"
    assert ctypes.sizeof(GemvCall) == 6 * 8 + 4 * 4
    assert ctypes.sizeof(QuantizeCall) == 6 * 8 + 2 * 24 + 7 * 4 + 4


def test_what_no_kernel_serves_is_said() -> None:
    weight, scales = format_named("int4-g64").encode(torch.randn(64, 128))
    for formats, dtype, reason in (
        (("int8", "int4-g64"), torch.bfloat16, "no kernel multiplies int8 by int4-g64"),
        (("int8", "int8"), torch.float32, "cast the model to bfloat16 or float16"),
        ((None, "int8"), torch.bfloat16, "plain numbers"),
    ):
        found = product_refusal(SM90, None, None, weight, scales, formats=formats, dtype=dtype)
        assert found is not None
        assert reason in found
    old = product_refusal(SM75, None, None, weight, scales, formats=("int4-g64", "int4-g64"), dtype=torch.bfloat16)
    assert old == "results are in bfloat16: cast the model to float16 before it is compressed"
    assert [row * inverse(70) >> 32 for row in (0, 69, 70, 139, 4607)] == [0, 0, 1, 1, 65]
    many = spread(torch.ones(2, 1, 8, dtype=torch.bfloat16), (2, 50_000, 8), torch.bfloat16)[0]
    assert (many.inverse, many.stride) == (0, 8), "100 000 rows in two samples are too many to divide by multiplying"
    assert "rank 104" in str(quantize_refusal(SM90, None, None, torch.randn(104, 64), format="int8"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_target_says_so() -> None:
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        cuda()

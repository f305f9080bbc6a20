"""Hopper's kernels: products by warpgroups on persistent grids, rows quantized by clusters. csrc/cuda/*_sm90.cu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime.cuda import sm80
from aquatint.runtime.cuda.launch import OUTPUTS, Family, Launch, ProductPlan, QuantizePlan, slices_for
from aquatint.runtime.cuda.pack import packed_down, packed_down_by_lanes
from aquatint.runtime.cuda.sm80 import COMMON, SM80, SQUARES, W4A8, W8A8

TOKENS = (256, 224, 192, 128)  # of a tile, as csrc/cuda/product_sm90.cu has them
TURNED_TOKENS = (224, 192, 128)  # as csrc/cuda/turned_sm90.cu has them
DEPTH = 128  # bytes of a tile along K
SHARED = 232448  # bytes that a block may have
BLOCK_BYTES = {4: OUTPUTS * DEPTH // 2 + 256, 8: OUTPUTS * DEPTH}  # of a packed weight
ROWS = 32  # that a cluster quantizes
WIDEST = 1152  # columns that a block quantizes
MOST_RANKS = 64  # of a cluster; what has more goes the older way
MOST_BLOCKS = 8  # of a cluster, on any machine


def product_plan(
    m: int, n: int, k: int, formats: tuple[str, str], rank: int, multiprocessors: int, tokens: int | None = None
) -> ProductPlan:
    """A plan with tiles of `tokens`, or of as many as leave the fewest multiprocessors idle in the last wave."""
    bits = format_named(formats[1]).bits
    possible = [t for t in TOKENS if t < 256 or rank <= 32]  # for more there are too few registers
    tokens = tokens or _best(possible, m, n, multiprocessors)
    m_tiles, n_tiles = ceil(m / tokens), ceil(n / OUTPUTS)
    name, grid = f"product_w{bits}_t{tokens}_s{slices_for(rank)}", min(m_tiles * n_tiles, multiprocessors)
    launch = Launch(f"product_w{bits}_sm90", name, grid, 384, _shared(bits, tokens), overlaps=True)
    return ProductPlan(launch, tokens, m_tiles, n_tiles, ceil(k / DEPTH), (tokens, DEPTH))


def turned_plan(
    m: int, n: int, k: int, formats: tuple[str, str], rank: int, multiprocessors: int, tokens: int | None = None
) -> ProductPlan:
    """The same for queries and keys, whose heads' squares are kept beside a tile."""
    bits, tokens = format_named(formats[1]).bits, tokens or _best(TURNED_TOKENS, m, n, multiprocessors)
    plan = product_plan(m, n, k, formats, rank, multiprocessors, tokens)
    name, shared = f"turned_w{bits}_t{tokens}_s{slices_for(rank)}", _shared(bits, tokens, SQUARES)
    return replace(plan, launch=replace(plan.launch, file="turned_sm90", kernel=name, shared=shared))


def _best(possible: Sequence[int], m: int, n: int, multiprocessors: int) -> int:
    return min(possible, key=lambda t: (_waves(m, n, t, multiprocessors) * _cost(t), -t))


def _shared(bits: int, tokens: int, more: int = 0) -> int:
    """Bytes of as many stages as there is room for, and of what lies beside them: `more` for each token."""
    stage = ceil((tokens * DEPTH + BLOCK_BYTES[bits]) / 1024) * 1024
    rest = tokens * DEPTH + 8 * 2 * 32 * 48 + tokens * (4 + more) + 1024 + 256
    return min((SHARED - rest) // stage, 6) * stage + rest


def _waves(m: int, n: int, tokens: int, multiprocessors: int) -> int:
    return ceil(ceil(m / tokens) * ceil(n / OUTPUTS) / multiprocessors)


def _cost(tokens: int) -> int:
    """Of a tile, in tokens: the weight is widened, and tiles are begun and left, for few tokens as for many."""
    return tokens + 24


def quantize_plan(m: int, k: int, rank: int, format: str, multiprocessors: int) -> QuantizePlan:
    """As few blocks a cluster as let two of them lie on a multiprocessor, and more where that leaves some idle."""
    row_blocks = ceil(m / ROWS)
    filling = min(6, ceil(2 * multiprocessors / row_blocks), ceil(k / 192))
    blocks = min(MOST_BLOCKS, max(ceil(k / WIDEST), filling))
    share = ceil(k / blocks / 16) * 16
    blocks = ceil(k / share)
    sums = 4 * 256 * max(1, 2 * slices_for(rank))  # bytes, of h
    shared = 2 * (128 + sums) + 912 + (2 * sums if rank else 0) + ROWS * (share * 2 + 16)
    launch = Launch("quantize_sm90", f"quantize_s{slices_for(rank)}", row_blocks * blocks, 256, shared, blocks, overlaps=True)
    return QuantizePlan(launch, blocks, share)


def can_quantize(k: int, rank: int) -> bool:
    """Do rows of K columns fit into the shared memory of a cluster, where one is used?"""
    return rank > MOST_RANKS or quantize_plan(1, k, rank, "int8", 1).launch.shared <= SHARED


def _quantize(m: int, k: int, rank: int, format: str, multiprocessors: int) -> QuantizePlan:
    plan = quantize_plan if rank <= MOST_RANKS else sm80.quantize_plan
    return plan(m, k, rank, format, multiprocessors)


def _packed_down(down: Tensor, slices: int) -> Tensor:
    return packed_down(down, slices) if slices <= slices_for(MOST_RANKS) else packed_down_by_lanes(down, slices)


SM90 = Family(
    "sm90", (*COMMON, "quantize_sm90", "product_w4_sm90", "product_w8_sm90", "turned_sm90"), SM80.numbers,
    ("int8",), (W4A8, W8A8), SM80.most_ranks, _quantize, can_quantize, product_plan, turned_plan, SM80.conv, _packed_down,
)  # fmt: skip

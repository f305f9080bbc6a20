"""The kernels for any tensor cores since Turing, and what newer ones add: a tile for a block, copied by its threads.

csrc/cuda/*_sm80.cu and *_sm120.cu.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import torch

from aquatint.runtime.cuda.launch import OUTPUTS, Family, Launch, ProductPlan, QuantizePlan, slices_for
from aquatint.runtime.cuda.pack import packed_down_by_lanes

TOKENS = 128  # of a tile
ROWS, WARPS = 16, 8  # of a block that quantizes
MOST_ROWS = 8  # of a product of few rows, at once
X_STAGE = TOKENS * 128  # bytes of a stage that hold tokens
LEAVING = X_STAGE + 8 * 2 * 32 * 48 + TOKENS * 4  # bytes that results leave through
SQUARES = 8 * 4  # bytes of a token: of each sixteen outputs the sum of squares
SHARED = {"sm75": 65536, "sm80": 101376}  # bytes of a block, on the smallest of them


@dataclass(frozen=True)
class Product:
    """A product's kernels: file, name, codes of a tile along K (128 bytes of them), and bytes of a stage."""

    file: str
    name: str
    depth: int
    stage: int


W4A8, W8A8, W4A4, NVFP4 = ("int8", "int4-g64-whole"), ("int8", "int8"), ("int4-g64", "int4-g64"), ("nvfp4", "nvfp4")
PRODUCTS = {
    W4A8: Product("product_sm80", "w4a8", 128, X_STAGE + 8192 + 256),
    W8A8: Product("product_sm80", "w8a8", 128, X_STAGE + 16384),
    W4A4: Product("product_sm80", "w4a4", 256, X_STAGE + 16384 + 1024 + 2048),
    NVFP4: Product("product_sm120", "nvfp4", 256, X_STAGE + 16384 + 2048 + 2048),
}
QUANTIZES = {"int8": ("quantize_sm80", "a8"), "int4-g64": ("quantize_sm80", "a4"), "nvfp4": ("quantize_sm120", "nvfp4")}


def product_plan(
    m: int, n: int, k: int, formats: tuple[str, str], rank: int, multiprocessors: int, tokens: int | None = None,
    most: int = SHARED["sm80"],
) -> ProductPlan:  # fmt: skip
    """A block for each tile of 128 tokens by 128 outputs, with at `most` so many bytes of shared memory."""
    kind, m_tiles, n_tiles = PRODUCTS[formats], ceil(m / TOKENS), ceil(n / OUTPUTS)
    launch = Launch(kind.file, f"product_{kind.name}_s{slices_for(rank)}", m_tiles * n_tiles, 256, _stages(kind.stage, most))
    return ProductPlan(launch, TOKENS, m_tiles, n_tiles, ceil(k / kind.depth))


def turned_plan(
    m: int, n: int, k: int, formats: tuple[str, str], rank: int, multiprocessors: int, tokens: int | None = None,
    most: int = SHARED["sm80"],
) -> ProductPlan:  # fmt: skip
    """The same for queries and keys, whose heads' squares are kept beside what leaves."""
    plan = product_plan(m, n, k, formats, rank, multiprocessors, tokens, most)
    name, shared = f"turned_{PRODUCTS[formats].name}_s{slices_for(rank)}", max(plan.launch.shared, LEAVING + TOKENS * SQUARES)
    return replace(plan, launch=replace(plan.launch, file="turned_sm80", kernel=name, shared=shared))


def quantize_plan(m: int, k: int, rank: int, format: str, multiprocessors: int) -> QuantizePlan:
    """A block for sixteen rows."""
    (file, name), slices = QUANTIZES[format], slices_for(rank)
    shared = WARPS * 2 * slices * 4 * 32 * 4 + WARPS * ROWS * 4 + 2 * ROWS * 8
    return QuantizePlan(Launch(file, f"quantize_{name}_s{slices}", ceil(m / ROWS), 32 * WARPS, shared), 1, k)


def gemv_plan(m: int, n: int, bits: int) -> Launch:
    """A warp for four outputs of up to eight rows."""
    rows = next((r for r in (1, 2, 4) if r >= m), MOST_ROWS)
    warps = ceil(n / 4) * ceil(m / rows)
    return Launch("gemv_sm80", f"gemv_w{bits}_m{rows}", ceil(warps / 4), 128, 0)


def conv_plan(
    m: int, n: int, channels: int, taps: int, formats: tuple[str, str], rank: int, most: int = SHARED["sm80"]
) -> ProductPlan:
    """A convolution with m pixels of output: a product whose depth is the taps, each in whole tiles of channels.

    Codes that are scaled by groups follow each other over the taps, and only the last tile is filled up.
    """
    m_tiles, n_tiles = ceil(m / TOKENS), ceil(n / OUTPUTS)
    kind, by_group = PRODUCTS[formats], formats == W4A4
    shared = _stages(kind.stage + (0 if by_group else TOKENS * 4), most)
    launch = Launch("conv_sm80", f"conv_{kind.name}_s{slices_for(rank)}", m_tiles * n_tiles, 256, shared)
    k_tiles = ceil(taps * channels / kind.depth) if by_group else taps * ceil(channels / kind.depth)
    return ProductPlan(launch, TOKENS, m_tiles, n_tiles, k_tiles)


def _stages(stage: int, most: int) -> int:
    """Bytes of two stages, or of one where there is no room for more."""
    return max(2 * stage if 2 * stage <= most else stage, LEAVING)


def rotary_launch(rows: int, width: int) -> tuple[Launch, int]:
    """Heads' rows, each by as many lanes as it has eights, rounded up to a power of two: the launch, and these lanes."""
    group = 1 << (ceil(width / 8) - 1).bit_length()
    return Launch("rotary_sm80", "rotary", ceil(rows * group / 256), 256, 0), group


@dataclass(frozen=True)
class MomentsPlan:
    """A group norm's statistics: each group's pixels in `splits` of `share`, then a thread for each channel.

    abreast  threads side by side along a group's channels, where these are neighbours; else 0
    """

    moments: Launch
    affine: Launch
    splits: int
    share: int
    abreast: int


def moments_plan(batch: int, channels: int, groups: int, pixels: int, last: bool, multiprocessors: int) -> MomentsPlan:
    """As many parts as give each multiprocessor four blocks, of 64 pixels at least."""
    splits = max(1, min(ceil(4 * multiprocessors / (batch * groups)), pixels // 64))
    share = ceil(pixels / splits)
    splits = ceil(pixels / share)
    width = channels // groups
    abreast = 1 << (width - 1).bit_length() if last and width <= 256 else 0
    return MomentsPlan(
        Launch("moments_sm80", "moments", batch * groups * splits, 256, 32),
        Launch("moments_sm80", "affine", ceil(batch * channels / 256), 256, 0), splits, share, abreast,
    )  # fmt: skip


COMMON = ("quantize_sm80", "gemv_sm80", "conv_sm80", "rotary_sm80", "moments_sm80")  # files of every family
SM80 = Family(
    "sm80", (*COMMON, "product_sm80", "turned_sm80"), (torch.bfloat16, torch.float16), ("int8", "int4-g64"),
    (W4A8, W8A8, W4A4), 96, quantize_plan, lambda k, rank: True, product_plan, turned_plan, conv_plan, packed_down_by_lanes,
)  # fmt: skip
# Turing: the same files by its own smaller products; its tensor cores have no bfloat16.
SM75 = replace(
    SM80, name="sm75", numbers=(torch.float16,), product=partial(product_plan, most=SHARED["sm75"]),
    turned=partial(turned_plan, most=SHARED["sm75"]), conv=partial(conv_plan, most=SHARED["sm75"]),
)  # fmt: skip
# Consumer Blackwell: its tensor cores have no integers of 4 bits, and nvfp4 instead.
SM120 = replace(
    SM80, name="sm120", files=(*COMMON, "product_sm80", "quantize_sm120", "product_sm120"), formats=("int8", "nvfp4"),
    products=(W4A8, W8A8, NVFP4), turned=None,
)  # fmt: skip

"""Consumer Blackwell: the kernels since Ampere for bytes, and products of nvfp4. csrc/cuda/*_sm120.cu.

Its tensor cores have no integers of 4 bits: int4-g64 runs by its meaning there.
"""

from __future__ import annotations

from math import ceil

from aquatint.runtime import cuda_sm80
from aquatint.runtime.cuda_launch import OUTPUTS, Family, Launch, ProductPlan, QuantizePlan, slices_for
from aquatint.runtime.cuda_pack import packed_down_by_lanes
from aquatint.runtime.cuda_sm80 import SM80, TOKENS, X_STAGE

NVFP4 = ("nvfp4", "nvfp4")
DEPTH = 256  # codes of a tile along K
STAGE = X_STAGE + 16384 + 2048 + 2048


def product_plan(
    m: int, n: int, k: int, formats: tuple[str, str], rank: int, multiprocessors: int, tokens: int | None = None
) -> ProductPlan:
    """A block for each tile of 128 tokens by 128 outputs."""
    if formats != NVFP4:
        return cuda_sm80.product_plan(m, n, k, formats, rank, multiprocessors, tokens)
    m_tiles, n_tiles = ceil(m / TOKENS), ceil(n / OUTPUTS)
    launch = Launch("product_sm120", f"product_nvfp4_s{slices_for(rank)}", m_tiles * n_tiles, 256, 2 * STAGE)
    return ProductPlan(launch, TOKENS, m_tiles, n_tiles, ceil(k / DEPTH))


def quantize_plan(m: int, k: int, rank: int, format: str, multiprocessors: int) -> QuantizePlan:
    """A block for sixteen rows."""
    if format != "nvfp4":
        return cuda_sm80.quantize_plan(m, k, rank, format, multiprocessors)
    launch = cuda_sm80.rows_launch("quantize_sm120", f"quantize_nvfp4_s{slices_for(rank)}", m, rank)
    return QuantizePlan(launch, 1, k)


SM120 = Family(
    "sm120", (*SM80.files, "quantize_sm120", "product_sm120"), ("int8", "nvfp4"),
    (("int8", "int4-g64-whole"), ("int8", "int8"), NVFP4), SM80.most_ranks, quantize_plan, SM80.fits, product_plan,
    packed_down_by_lanes,
)  # fmt: skip

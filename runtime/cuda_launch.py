"""How kernels are launched on a GPU: names, grids, clusters, shared memory. Plain arithmetic, tested where there is no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

TOKENS = (256, 224, 192, 128)  # of a tile, as csrc/cuda/product_sm90.cu has them
OUTPUTS, DEPTH = 128, 128  # of a tile: channels, and bytes along K
SHARED = 232448  # bytes that a block may have on sm_90
BLOCK_BYTES = {4: OUTPUTS * DEPTH // 2 + 256, 8: OUTPUTS * DEPTH}  # of a packed weight
ROWS = 32  # that a cluster quantizes
WIDEST = 1152  # columns that a block quantizes
MOST_BLOCKS = 8  # of a cluster, on any machine


@dataclass(frozen=True)
class Launch:
    """A kernel's name and how it is started; grid and block are one-dimensional."""

    kernel: str
    grid: int
    block: int
    shared: int
    cluster: int = 1


@dataclass(frozen=True)
class ProductPlan:
    """A product (M, N, K) on tiles: the launch, and what the kernel must know of it."""

    launch: Launch
    tokens: int
    m_tiles: int
    n_tiles: int
    k_tiles: int

    @property
    def box(self) -> tuple[int, int]:
        """Rows and bytes that a block fetches of the activations at once."""
        return self.tokens, DEPTH


def slices_for(rank: int) -> int:
    """Slices of 16 ranks that the kernels are compiled for: 0, 2 or 4."""
    return 2 * ceil(rank / 32)


def product_plan(m: int, n: int, k: int, bits: int, rank: int, multiprocessors: int, tokens: int | None = None) -> ProductPlan:
    """A plan with tiles of `tokens`, or of as many as leave the fewest multiprocessors idle in the last wave."""
    possible = [t for t in TOKENS if t < 256 or rank <= 32]  # for more there are too few registers
    tokens = tokens or min(possible, key=lambda t: (_waves(m, n, t, multiprocessors) * _cost(t), -t))
    m_tiles, n_tiles = ceil(m / tokens), ceil(n / OUTPUTS)
    stage = ceil((tokens * DEPTH + BLOCK_BYTES[bits]) / 1024) * 1024
    rest = tokens * DEPTH + 8 * 2 * 32 * 48 + tokens * 4 + 1024 + 256
    shared = min((SHARED - rest) // stage, 6) * stage + rest
    name = f"product_w{bits}_t{tokens}_s{slices_for(rank)}"
    return ProductPlan(
        Launch(name, min(m_tiles * n_tiles, multiprocessors), 384, shared), tokens, m_tiles, n_tiles, ceil(k / DEPTH)
    )


def _waves(m: int, n: int, tokens: int, multiprocessors: int) -> int:
    return ceil(ceil(m / tokens) * ceil(n / OUTPUTS) / multiprocessors)


def _cost(tokens: int) -> int:
    """Of a tile, in tokens: the weight is widened, and tiles are begun and left, for few tokens as for many."""
    return tokens + 24


@dataclass(frozen=True)
class QuantizePlan:
    """Rows (M, K) quantized by clusters, each 32 of them: blocks of a cluster, and columns of a block."""

    launch: Launch
    blocks: int
    share: int


def quantize_plan(m: int, k: int, rank: int, multiprocessors: int) -> QuantizePlan:
    """As few blocks a cluster as let two of them lie on a multiprocessor, and more where that leaves some idle."""
    row_blocks = ceil(m / ROWS)
    filling = min(6, ceil(2 * multiprocessors / row_blocks), ceil(k / 192))
    blocks = min(MOST_BLOCKS, max(ceil(k / WIDEST), filling))
    share = ceil(k / blocks / 16) * 16
    blocks = ceil(k / share)
    sums = 4 * 256 * max(1, 2 * slices_for(rank))  # bytes, of h
    shared = 2 * (128 + sums) + 912 + (2 * sums if rank else 0) + ROWS * (share * 2 + 16)
    return QuantizePlan(Launch(f"quantize_s{slices_for(rank)}", row_blocks * blocks, 256, shared, blocks), blocks, share)


def can_quantize(k: int, rank: int) -> bool:
    """Do rows of K columns fit into the shared memory of a cluster?"""
    return quantize_plan(1, k, rank, 1).launch.shared <= SHARED

"""How kernels are launched on a GPU: names, grids, clusters, shared memory. Plain arithmetic, tested where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

OUTPUTS = 128  # channels of a tile
NUMBERS = {torch.bfloat16: "", torch.float16: "_f16"}  # that a model may be in, and how the files for them end
COLUMNS = {"int8": 16, "int4-g64": 64, "nvfp4": 64}  # what K must be a multiple of, by the format of activations


@dataclass(frozen=True)
class Launch:
    """A kernel's file and name and how it is started; grid and block are one-dimensional.

    cluster   how many blocks reach each other's shared memory
    overlaps  it may begin while the kernel before it ends, and awaits that one's results itself
    """

    file: str
    kernel: str
    grid: int
    block: int
    shared: int
    cluster: int = 1
    overlaps: bool = False


@dataclass(frozen=True)
class ProductPlan:
    """A product (M, N, K) on tiles: the launch, and what the kernel must know of it.

    box  rows and bytes that the copy engine fetches of the activations at once; None: the kernel's threads fetch them
    """

    launch: Launch
    tokens: int
    m_tiles: int
    n_tiles: int
    k_tiles: int
    box: tuple[int, int] | None = None


# (m, n, k, formats, rank, multiprocessors, tokens) -> the plan
Planned = Callable[[int, int, int, tuple[str, str], int, int, int | None], ProductPlan]


@dataclass(frozen=True)
class QuantizePlan:
    """Rows (M, K) that are quantized by clusters of `blocks` blocks, each `share` columns of them."""

    launch: Launch
    blocks: int
    share: int


@dataclass(frozen=True)
class Family:
    """Kernels for GPUs of a kind: what they serve, and how they are launched.

    files        fatbins, by name, for each of `numbers` that a model may be in
    formats      that are quantized to
    products     of activations and weights in these formats
    most_ranks   of a down-projection
    quantize     (m, k, rank, format, multiprocessors) -> QuantizePlan
    fits         can rows of (K columns, rank) be quantized?
    product      (m, n, k, formats, rank, multiprocessors, tokens) -> ProductPlan
    turned       the same for queries and keys, whose heads are normed and turned too; None: there are no kernels for that
    conv         (m, n, channels, taps, formats, rank) -> ProductPlan
    packed_down  a down-projection and slices of 16 ranks -> in the order of the kernel's registers
    """

    name: str
    files: tuple[str, ...]
    numbers: tuple[torch.dtype, ...]
    formats: tuple[str, ...]
    products: tuple[tuple[str, str], ...]
    most_ranks: int
    quantize: Callable[[int, int, int, str, int], QuantizePlan]
    fits: Callable[[int, int], bool]
    product: Planned
    turned: Planned | None
    conv: Callable[[int, int, int, int, tuple[str, str], int], ProductPlan]
    packed_down: Callable[[Tensor, int], Tensor]

    @property
    def modules(self) -> tuple[str, ...]:
        """All that is loaded: each file for each of the numbers."""
        return tuple(f"{file}{NUMBERS[numbers]}" for numbers in self.numbers for file in self.files)


def slices_for(rank: int) -> int:
    """Slices of 16 ranks that the kernels are compiled for: 0, 2, 4, and 6 for the way down of nine taps."""
    return 2 * ceil(rank / 32)

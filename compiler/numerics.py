"""What makes arithmetic come out the same on one thread and on two, in this process and in the next."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_PRODUCT = 4096  # outputs; where strict mode can't be had, up to 506 were seen to depend on two threads

_MKL_STRICT = 0x10000  # MKL_CBWR_STRICT: products do not depend on the number of threads
_MKL_AUTO = 2  # where the processor is of another maker, MKL refuses its own branches by name
_MKL_BRANCHES = {"AVX512": 12, "AVX2": 10, "DEFAULT": 10, "NO AVX": 8}


@functools.cache
def reproducible() -> bool:
    """Ask the BLAS inside torch for strict conditional numerical reproducibility; False where it can't be had.

    Without it MKL splits a long sum over the threads. Measured cost: none. The setting holds for the process.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        set_mode = ctypes.CDLL(str(library)).mkl_serv_cbwr_set
    except (OSError, AttributeError):
        return False
    branch = _MKL_BRANCHES.get(torch.backends.cpu.get_cpu_capability().upper(), 10)
    return any(set_mode(choice | _MKL_STRICT, 0) == 0 for choice in (branch, _MKL_AUTO))


@contextmanager
def single_thread() -> Iterator[None]:
    """For LAPACK calls, whose blocking follows the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def total(values: Tensor) -> float:
    """The sum in a fixed order: a sum over everything at once would be split by thread."""
    return values.flatten(1).sum(1, dtype=torch.float64).sum().item() if values.dim() > 1 else values.double().sum().item()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, the same on any number of threads."""
    if x.numel() // max(1, x.shape[-1]) * len(weight) > SMALL_PRODUCT:
        return F.linear(x, weight, bias)
    with single_thread():
        return F.linear(x, weight, bias)


def pixel_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object) -> Tensor:
    """A 1 x 1 convolution as a product over pixels: as a convolution its sum is split by the number of threads."""
    return linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1).contiguous()

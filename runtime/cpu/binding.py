"""A call of a compiled kernel with every address in place: what must be refreshed before it, and handed over after it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cpu.native import KernelSet, Spread
from aquatint.runtime.layout import at

Run = Callable[[], Any]


def runner(
    kernels: KernelSet, function: Any, call: ctypes.Structure, held: Any, before: Sequence[Run] = (), after: Sequence[Run] = ()
) -> Run:
    """What runs a bound call; `held` keeps alive the tensors whose addresses are in it, those of its kernel too."""
    table, threads, kept = kernels.table, torch.get_num_threads, (call, held)
    if not before and not after:
        return lambda: function(table, kept[0], threads())

    def run() -> None:
        for refresh in before:
            refresh()
        function(table, kept[0], threads())
        for finish in after:
            finish()

    return run


def staged(tensor: Tensor) -> tuple[Tensor, list[Run]]:
    """The tensor in order, and numbers in float32: itself, or a copy and what refreshes it."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor, []
    copy = torch.empty(tensor.shape, dtype=dtype)
    return copy, [lambda: copy.copy_(tensor)]


def collected(tensor: Tensor) -> tuple[Tensor, list[Run]]:
    """Where to write float32 numbers that `tensor` shall get in its own dtype, and what hands them over."""
    numbers = torch.empty(tensor.shape)
    return numbers, [lambda: tensor.copy_(numbers)]


def spread(vectors: Tensor | None, shape: Sequence[int]) -> tuple[Spread, Tensor | None, list[Run]]:
    """What tells the kernel where each row's vector lies, the tensor that holds them, and what refreshes it."""
    if vectors is None:
        return Spread(), None, []
    if vectors.numel() == shape[-1]:
        one, refreshes = staged(vectors[(0,) * (vectors.dim() - 1)])
        return Spread(at(one), 0, 0), one, refreshes
    rows = torch.Size(shape[:-1]).numel()
    by_sample = vectors.numel() == len(vectors) * shape[-1]
    if by_sample and vectors.dtype == torch.float32 and vectors.stride(-1) == 1:
        return Spread(at(vectors), rows // len(vectors), vectors.stride(0)), vectors, []
    ordered, refreshes = staged(vectors)
    return Spread(at(ordered), rows * shape[-1] // vectors.numel(), shape[-1]), ordered, refreshes

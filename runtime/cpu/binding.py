"""A call of a compiled kernel with every address in place: what must be refreshed before it, and handed over after it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cpu.native import KernelSet, Spread
from aquatint.runtime.layout import at

Run = Callable[[], Any]


class Bound:
    """What runs a bound call; `held` keeps alive the tensors whose addresses are in it, those of its kernel too.

    before, after  what must be refreshed first, and handed over at last
    """

    def __init__(
        self, kernels: KernelSet, function: Any, call: ctypes.Structure, held: Any, before: Sequence[Run] = (),
        after: Sequence[Run] = (),
    ) -> None:  # fmt: skip
        self._table = kernels.table
        self.function, self.call, self.held, self.before, self.after = function, call, held, before, after

    def __call__(self) -> None:
        for refresh in self.before:
            refresh()
        self.function(self._table, self.call, torch.get_num_threads())
        for finish in self.after:
            finish()

    def places_of(self, tensor: Tensor) -> list[Place]:
        """Where the call holds addresses within `tensor`: to change these is all it takes for another that lies elsewhere.

        Nowhere, if copies of what it reads or writes are what the kernel sees.
        """
        if self.before or self.after:
            return []
        first = tensor.data_ptr()
        return [p for p in _addresses(self.call, first) if 0 <= p.offset < tensor.untyped_storage().nbytes()]


@dataclass(frozen=True)
class Place:
    """A field of a call that holds an address, so many bytes behind a tensor's."""

    call: ctypes.Structure
    field: str
    offset: int

    def move(self, address: int) -> None:
        """The tensor lies there now."""
        setattr(self.call, self.field, address + self.offset)


def _addresses(call: ctypes.Structure, first: int) -> Iterator[Place]:
    """Every address in a call and in what it points to."""
    for name, kind, *_ in call._fields_:
        value = getattr(call, name)
        if kind is ctypes.c_void_p and value is not None:
            yield Place(call, name, value - first)
        elif isinstance(value, ctypes.Structure):
            yield from _addresses(value, first)
        elif isinstance(value, ctypes._Pointer) and value:
            yield from _addresses(value.contents, first)


@dataclass(frozen=True)
class Copy:
    """The numbers of `source` in the dtype and the order of `target`."""

    target: Tensor
    source: Tensor

    def __call__(self) -> None:
        self.target.copy_(self.source)


@dataclass(frozen=True)
class Affine:
    """x * gain + offset."""

    result: Tensor
    x: Tensor
    gain: Tensor
    offset: Tensor

    def __call__(self) -> None:
        torch.addcmul(self.offset, self.x, self.gain, out=self.result)


def staged(tensor: Tensor) -> tuple[Tensor, list[Run]]:
    """The tensor in order, and numbers in float32: itself, or a copy and what refreshes it."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor, []
    copy = torch.empty(tensor.shape, dtype=dtype)
    return copy, [Copy(copy, tensor)]


def collected(tensor: Tensor) -> tuple[Tensor, list[Run]]:
    """Where to write float32 numbers that `tensor` shall get in its own dtype, and what hands them over."""
    numbers = torch.empty(tensor.shape)
    return numbers, [Copy(tensor, numbers)]


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

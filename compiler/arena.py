"""Memory for values that live from one step to another, and how they lie in it: those that never live together share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a line of the cache


@dataclass(frozen=True)
class Layout:
    """How a tensor lies: numbers alone, as what torch allocates between values keeps their memory from being used again."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        """As it lies, but without gaps, and in order where it shows a number twice."""
        strides = tensor.to("meta").stride()
        if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, strides, strict=True)):
            strides = torch.empty(tensor.shape, device="meta").stride()
        return Layout(tuple(tensor.shape), strides, tensor.dtype)

    @property
    def nbytes(self) -> int:
        """From the first element to the last."""
        if 0 in self.shape:
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (1 + last) * self.dtype.itemsize

    def anew(self) -> Tensor:
        """A tensor that lies so; `empty_like` of one on `meta` would import sympy, 32 MB."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype)

    def within(self, memory: Tensor) -> Tensor:
        """The same over these bytes."""
        return memory.view(self.dtype).as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class Room:
    """`size` bytes, needed from the step `first` up to and with the step `last`."""

    size: int
    first: int
    last: int

    def until(self, step: int) -> Room:
        """The same room, needed at `step` as well."""
        return replace(self, last=max(self.last, step))

    def meets(self, other: Room) -> bool:
        """Do both live at some step?"""
        return self.first <= other.last and other.first <= self.last


def offsets(rooms: Sequence[Room]) -> list[int]:
    """Where each room begins: the largest first, each at the lowest free place (Pisarchyk & Lee 2020, greedy by size)."""
    places = [0] * len(rooms)
    placed: list[int] = []
    for index in sorted(range(len(rooms)), key=lambda i: -rooms[i].size):
        room, place = rooms[index], 0
        neighbours = sorted((places[i], rooms[i].size) for i in placed if room.meets(rooms[i]))
        for begin, size in neighbours:
            if place + room.size <= begin:
                break
            place = max(place, begin + -(-size // ALIGNMENT) * ALIGNMENT)
        places[index] = place
        placed.append(index)
    return places


def arena_of(rooms: Sequence[Room]) -> tuple[Tensor, list[Tensor]]:
    """One block of memory, and each room's bytes in it."""
    places = offsets(rooms)
    size = max((p + r.size for p, r in zip(places, rooms, strict=True)), default=0)
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % ALIGNMENT :][:size]
    return memory, [memory[p : p + r.size] for p, r in zip(places, rooms, strict=True)]

"""Weights that lie in a file: once kernels have laid out their own, the file's pages leave memory; reading brings them back."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

_DONT_NEED = 4  # MADV_DONTNEED: of pages that nobody wrote, the next read takes them from the file again


@dataclass(frozen=True)
class Mapped:
    """Where the file is mapped in this process, as (address, bytes); `anchor` is a tensor in it, which keeps it there."""

    places: tuple[tuple[int, int], ...]
    anchor: Tensor

    def release(self) -> None:
        """Let its pages go. The tensors stay as they are."""
        advise = ctypes.CDLL(None).madvise
        for address, size in self.places:
            advise(ctypes.c_void_p(address), ctypes.c_size_t(size), _DONT_NEED)


def mapped(path: Path, tensors: list[Tensor]) -> Mapped | None:
    """The file `path`, if all that lies there is of `tensors` that look into it; None where there is no such map to be read."""
    maps, places = Path("/proc/self/maps"), []
    for line in maps.read_text().splitlines() if maps.is_file() else ():
        span, *_, file = line.split(maxsplit=5)
        if file == str(path.resolve()):
            first, last = (int(part, 16) for part in span.split("-"))
            places.append((first, last - first))
    inside = [t for t in tensors if any(first <= t.data_ptr() < first + size for first, size in places)]
    return Mapped(tuple(places), inside[0]) if inside else None

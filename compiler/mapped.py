"""Weights that lie in a file: once kernels have laid out their own, the file's pages leave memory; reading brings them back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

_DONT_NEED = 4  # MADV_DONTNEED: of pages that nobody wrote, the next read takes them from the file again


@dataclass(frozen=True)
class Mapped:
    """`size` bytes from `address` on are a map of the file; `anchor` is a tensor in it, which keeps it there."""

    address: int
    size: int
    anchor: Tensor

    def release(self) -> None:
        """Let its pages go. The tensors stay as they are."""
        ctypes.CDLL(None).madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size), _DONT_NEED)


def mapped(path: Path, tensors: Sequence[Tensor]) -> Mapped | None:
    """The map of the file `path` that all `tensors` look into; None where there is none, or no way to tell."""
    maps = Path("/proc/self/maps")
    filled = [t for t in tensors if t.numel()]
    for line in maps.read_text().splitlines() if maps.is_file() and filled else ():
        span, *_, file = line.split(maxsplit=5)
        first, last = (int(part, 16) for part in span.split("-"))
        if file == str(path.resolve()) and all(first <= t.data_ptr() < last for t in filled):
            return Mapped(first, last - first, filled[0])
    return None

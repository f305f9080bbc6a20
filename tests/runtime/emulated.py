"""A GPU for tests where there is none: the CUDA kernels compiled for this CPU, see tests/native/emulator/block.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.launch import Family, Launch
from aquatint.runtime.cuda.target import Cuda

BUILT = Path(__file__).resolve().parent.parent.parent / "build" / "emulated"


@dataclass(frozen=True)
class Emulated:
    """A file's kernels; `seed` draws the order in which warps go on."""

    library: ctypes.CDLL
    seed: int

    def launch(self, launch: Launch, arguments: Sequence[Any], stream: int) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        failure = self.library.emulate(
            launch.kernel.encode(), launch.grid, launch.block, launch.shared, launch.cluster, self.seed, pointers
        )
        assert failure is None, f"{launch.kernel}: {failure.decode()}"


def load(path: Path, seed: int) -> Emulated:
    library = ctypes.CDLL(str(path))
    library.emulate.restype = ctypes.c_char_p
    return Emulated(library, seed)


def half(family: Family) -> Family:
    """A family's kernels for models in float16 alone."""
    return replace(family, name=f"{family.name}_f16", numbers=(torch.float16,))


def emulated(family: Family, seed: int = 0, multiprocessors: int = 4, tokens: int | None = None, **others: Path) -> Cuda:
    """The target `cuda` with a family's kernels on this CPU; `others` are files in place of those that were built."""
    device = torch.device("cpu")
    folder = BUILT / "turing" if family.name == "sm75" else BUILT
    modules = {name: load(others.get(name, folder / f"{name}.so"), seed) for name in family.modules}
    return Cuda(Engine(family, device, multiprocessors, modules, described, lambda: 0, tokens), device)


class TensorMap(ctypes.Structure):
    """As in tests/native/emulator/cuda/hopper.h."""

    _fields_ = [
        ("matrix", ctypes.c_void_p), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64),
        ("box_rows", ctypes.c_int32), ("box_columns", ctypes.c_int32), ("rest", ctypes.c_uint8 * 96),
    ]  # fmt: skip


def described(address: int, rows: int, columns: int, box: tuple[int, int]) -> TensorMap:
    return TensorMap(address, rows, columns, *box)

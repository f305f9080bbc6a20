"""A device with its kernels loaded: what every kernel of the target launches by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from aquatint.runtime.cuda.launch import NUMBERS, Family, Launch


class Kernels(Protocol):
    """A file's kernels, to be started: `driver.Module`, or what stands for it where there is no GPU."""

    def launch(self, launch: Launch, arguments: Sequence[Any], stream: int) -> None: ...


@dataclass(frozen=True)
class Engine:
    """A device with the kernels for it, by file.

    tensor_map  describes a matrix (address, rows, columns, box) to the copy engine
    stream      the one that is torch's now
    tokens      of a tile; None: what suits the shape
    """

    family: Family
    device: torch.device
    multiprocessors: int
    modules: Mapping[str, Kernels]
    tensor_map: Callable[[int, int, int, tuple[int, int]], Any]
    stream: Callable[[], int]
    tokens: int | None = None

    def launch(self, launch: Launch, arguments: Sequence[Any], numbers: torch.dtype) -> None:
        """Start a kernel for a model in `numbers`."""
        self.modules[f"{launch.file}{NUMBERS[numbers]}"].launch(launch, arguments, self.stream())

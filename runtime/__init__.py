"""What a program runs on: the operator set, and a file or a folder a target."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Target(Protocol):
    """Where a program runs: which calls it has a kernel for, with weights packed the way the kernel wants them."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def rotates(self) -> bool:
        """Is there a kernel for rotary positions? See `compiler.rotary`."""
        ...

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A kernel for one call, or None to leave it to the operator's meaning; see `compiler.program.Execution`."""
        ...

    def gates(self, columns: int) -> bool:
        """Is there a kernel for a product whose halves, of so many columns, multiply each other? See `compiler.gated`."""
        ...

    def joins(self, columns: int, format: str) -> bool:
        """Is there a kernel for a product of so many columns and the quantize to `format` behind it? See `compiler.join`."""
        ...

    def turns(self, width: int, formats: tuple[str, str]) -> bool:
        """Is there a kernel for a product of these formats that turns heads of `width`? See `compiler.turned`."""
        ...


# The module of each, whose function of the same name gives it: a plate runs where there is no torch.
TARGETS = {
    "cpu": "aquatint.runtime.cpu.target",
    "cuda": "aquatint.runtime.cuda.target",
    "reference": "aquatint.runtime.reference",
}


def target_named(name: str) -> Target:
    """The target called `name`; ValueError with the known names."""
    if name not in TARGETS:
        raise ValueError(f"no target {name!r}; known: {', '.join(TARGETS)}")
    return getattr(importlib.import_module(TARGETS[name]), name)()

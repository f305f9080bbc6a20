"""The target with no kernel: every operator by its meaning. Slow, exact, and what all others are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Reference:
    """Lowers nothing."""

    name: str = "reference"
    rotates: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        return None

    def gates(self, columns: int) -> bool:
        return False

    def joins(self, columns: int, format: str) -> bool:
        return False

    def turns(self, width: int, formats: tuple[str, str]) -> bool:
        return False


def reference() -> Reference:
    """The target."""
    return Reference()

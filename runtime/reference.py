"""The target with no kernel: every operator by its meaning. Slow, exact, and what all others are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """Lowers nothing."""

    name: str = "reference"

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        return None


def reference() -> Reference:
    """The target."""
    return Reference()

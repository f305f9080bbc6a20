"""How a value holds the places of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aquatint.compiler.regions import Grid, Reach


@dataclass(frozen=True)
class Mark:
    """What an axis holds: axis `axis` of the grid, or, if that is None, all its places in a row.

    Before and behind them may stand others, `lead` and `trail`: the tokens of a text that go through the same blocks.
    """

    axis: int | None
    lead: int = 0
    trail: int = 0


@dataclass(frozen=True)
class Layout:
    """The grid of a value, and for each of its axes what it holds of it, or None."""

    grid: Grid
    marks: tuple[Mark | None, ...]

    @property
    def axes(self) -> list[int]:
        """The axes that hold places, in the order of the grid."""
        return sorted((d for d, m in enumerate(self.marks) if m), key=lambda d: self.marks[d].axis or 0)  # type: ignore[union-attr]

    @property
    def ends(self) -> tuple[int, int]:
        """Places before and behind the grid."""
        mark = self.marks[self.axes[0]]
        assert mark is not None
        return mark.lead, mark.trail

    def order(self) -> list[int]:
        """The permutation that brings the batch first, then the places, then all else: how a value is kept."""
        rest = [d for d, m in enumerate(self.marks) if m is None]
        return [rest[0], *self.axes, *rest[1:]] if rest else self.axes

    def moved(self, order: Sequence[int]) -> Layout:
        return replace(self, marks=tuple(self.marks[d] for d in order))


@dataclass(frozen=True)
class Seeing:
    """How an operator's result at a place follows from its inputs.

    "row"    from the same place;  "reach": from those that `reach` names
    "whole"  from all of them, so that it is computed whole, though it has a layout
    "grid", "lead", "trail"  it is that part of a sequence
    """

    kind: str
    reach: Reach | None = None


ROW, WHOLE = Seeing("row"), Seeing("whole")

"""The two further entries that a program may have, and what passes between them; compiler/incremental.py makes them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import fx

from aquatint.compiler.formats import format_named
from aquatint.compiler.regions import Grid, Index, Region


@dataclass(frozen=True)
class Kept:
    """A value that `record` gives and `edit` takes.

    name    of the value
    form    "rows": as (batch, places, channels), of which an edit brings some up to date; "norm": of a group norm, which an
            edit brings up to date; "whole": as it is
    format  the number format that it is kept in, or None: as it is
    shape   as it is kept
    places  which of them an edit brings up to date, with `ends` places before and behind the grid
    inputs  the program's inputs that it follows from; one that the image does not reach is the same for every image
    cost    multiply-adds that make one of its places, or all of one that is kept whole
    """

    name: str
    form: str
    format: str | None
    shape: tuple[int, ...]
    inputs: frozenset[str]
    places: Index | None = None
    cost: float = 0.0

    def nbytes(self, bytes_each: int = 4) -> int:
        """Bytes that it takes for one call of the model."""
        if self.format is None:
            return prod(self.shape) * bytes_each
        kind = format_named(self.format)
        scale = 2 if kind.scale == "bfloat16" else 4
        return (
            prod(self.shape) * kind.bits // 8
            + prod(self.shape[:-1]) * (self.shape[-1] // (kind.group or self.shape[-1])) * scale
        )


@dataclass(frozen=True)
class Work:
    """Multiply-adds: `each` at every place of `region` and at `more` others; `dense`: of the whole product."""

    node: str
    region: Region
    each: float
    more: int
    dense: float


@dataclass(frozen=True)
class Incremental:
    """`record`, which also gives what an edit will need, and `edit`, which computes some places.

    record  inputs as the program's; results: the program's, then those of `kept`: codes and scales where it has a format
    edit    inputs: the program's, then `indices`, then the tensors of `kept`; results: the program's, then what brings those of
            the forms "rows" and "norm" up to date, in their order
    work    of an edit's products
    whole   operators that an edit computes whole, because their result at a place follows from all places
    """

    record: fx.Graph
    edit: fx.Graph
    grid: Grid
    indices: tuple[Index, ...]
    kept: tuple[Kept, ...]
    work: tuple[Work, ...]
    whole: tuple[str, ...]

    @property
    def rows(self) -> list[Kept]:
        return [k for k in self.kept if k.form == "rows"]

"""Which places of a grid are computed: sets that are stated when a program is rewritten, and found when a mask is known.

A grid is the shape of an image, of a level of a U-Net, of the tokens of a transformer; a place is a number in it, row by row.
A set has an order: what is computed for it lies in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Reach:
    """Which places of the grid `source` an output of the grid `target` sees: by tap t, y * stride - padding + t * dilation.

    Where the source is smaller, as in nearest-neighbour enlargement, y is first divided by `enlarged`.
    """

    source: Grid
    target: Grid
    kernel: Grid
    stride: Grid
    padding: Grid
    dilation: Grid
    enlarged: Grid

    @staticmethod
    def of_convolution(source: Grid, target: Grid, kernel: Grid, stride: Grid, padding: Grid, dilation: Grid) -> Reach:
        return Reach(source, target, kernel, stride, padding, dilation, (1,) * len(source))

    @staticmethod
    def of_enlargement(source: Grid, target: Grid) -> Reach:
        ones = (1,) * len(source)
        return Reach(
            source, target, ones, ones, (0,) * len(source), ones, tuple(t // s for s, t in zip(source, target, strict=True))
        )

    @property
    def sees_itself(self) -> bool:
        """Does every output see the place that it stands at?"""
        axes = zip(self.kernel, self.stride, self.padding, self.dilation, strict=True)
        centred = all(s == 1 and p % d == 0 and p // d < k for k, s, p, d in axes)
        return self.source == self.target and centred

    @cached_property
    def table(self) -> Tensor:
        """(outputs, taps): the place that each sees, -1 outside."""
        coordinates: list[Tensor] = []
        inside = torch.ones(prod(self.target), prod(self.kernel), dtype=torch.bool)
        for axis, size in enumerate(self.source):
            out = torch.arange(self.target[axis]) // self.enlarged[axis] * self.stride[axis] - self.padding[axis]
            seen = out.unsqueeze(1) + torch.arange(self.kernel[axis]) * self.dilation[axis]
            spread = _along(seen, axis, self.target, self.kernel)
            inside &= (spread >= 0) & (spread < size)
            coordinates.append(spread)
        place = torch.zeros_like(coordinates[0])
        for size, spread in zip(self.source, coordinates, strict=True):
            place = place * size + spread
        return torch.where(inside, place, -1)

    @cached_property
    def squares(self) -> tuple[Tensor, Tensor]:
        """(squares, 16) and (squares, 4): what the squares of 2 x 2 outputs see and hold, -1 outside."""
        halves = tuple((size + 1) // 2 for size in self.target)
        two, none = (2,) * len(halves), (0,) * len(halves)
        seen = Reach.of_convolution(self.source, halves, tuple(k + 1 for k in self.kernel), two, self.padding, self.dilation)
        held = Reach.of_convolution(self.target, halves, two, two, none, (1,) * len(halves))
        return seen.table, held.table


def _along(seen: Tensor, axis: int, target: Grid, kernel: Grid) -> Tensor:
    """(outputs along an axis, taps along it) for all outputs and taps."""
    shape = [1] * (2 * len(target))
    shape[axis], shape[len(target) + axis] = seen.shape
    return seen.reshape(shape).expand(*target, *kernel).reshape(prod(target), prod(kernel))


@dataclass(frozen=True)
class Edited:
    """Where the mask is set, at the resolution of `grid`, widened by the margin."""

    grid: Grid


@dataclass(frozen=True)
class Everywhere:
    """All places."""

    grid: Grid


@dataclass(frozen=True)
class Seen:
    """What the outputs `of` see."""

    of: Region
    reach: Reach


@dataclass(frozen=True)
class Touched:
    """The outputs that see something of `of`."""

    of: Region
    reach: Reach


@dataclass(frozen=True)
class Joined:
    """`first`, and behind it what else is in `second`."""

    first: Region
    second: Region


Region = Edited | Everywhere | Seen | Touched | Joined


def joined(first: Region, second: Region) -> Region:
    """Both, without saying what is plain."""
    if first == second or isinstance(first, Everywhere):
        return first
    return Joined(first, second)


def wider(first: Region, second: Region) -> Region:
    """Both; one of them where it is plain that it holds the other."""
    if _holds(second, first):
        return second
    return first if _holds(first, second) else Joined(first, second)


def _holds(outer: Region, inner: Region) -> bool:
    if outer == inner or isinstance(outer, Everywhere):
        return True
    if isinstance(outer, Touched):
        return outer.reach.sees_itself and _holds(outer.of, inner)
    return isinstance(outer, Joined) and (_holds(outer.first, inner) or _holds(outer.second, inner))


@dataclass(frozen=True)
class Places:
    """The numbers of a region's places in a sequence with `lead` more places before the grid and `trail` behind it."""

    region: Region
    grid: Grid
    lead: int = 0
    trail: int = 0


@dataclass(frozen=True)
class Rest:
    """The places of `whole` that are not in `part`."""

    whole: Region
    part: Region


@dataclass(frozen=True)
class Lookup:
    """(n, taps): where what each output of `region` sees lies in `within`, or -1; without a reach each sees its own place."""

    region: Region
    within: Region
    reach: Reach | None = None


@dataclass(frozen=True)
class Phase:
    """Which of the places that an enlarged place has become each one of `region` is, row by row (pixel shuffle)."""

    region: Region
    reach: Reach


@dataclass(frozen=True)
class Squares:
    """(s, 20): the squares of 2 x 2 outputs, beginning at even places, that have some of `region`: where the 16 places that
    each sees lie in `within`, and its 4 outputs in `region`; -1 for none.
    """

    region: Region
    within: Region
    reach: Reach


Index = Places | Rest | Lookup | Phase | Squares


class Regions:
    """All regions and indices for one mask.

    mask    of the program's image, bool, in the shape of its grid
    margin  places by which the mask is widened at every resolution, so that what changes beside it is computed too
    """

    def __init__(self, mask: Tensor, margin: int = 1) -> None:
        self.mask, self.margin = mask, margin
        self._regions: dict[Region, Tensor] = {}
        self._indices: dict[Index, Tensor] = {}

    def places(self, region: Region) -> Tensor:
        """The places of a region in its order, (n,)."""
        if region not in self._regions:
            self._regions[region] = self._find(region)
        return self._regions[region]

    def index(self, index: Index) -> Tensor:
        """Places (n,) in 64 bits, or a table (n, taps) or (s, 20) in 32."""
        if index not in self._indices:
            self._indices[index] = self._index(index)
        return self._indices[index]

    def count(self, region: Region) -> int:
        return len(self.places(region))

    def _find(self, region: Region) -> Tensor:
        match region:
            case Everywhere(grid):
                return torch.arange(prod(grid))
            case Edited(grid):
                return at_grid(self.mask, grid, self.margin).flatten().nonzero().squeeze(1)
            case Seen(of, reach):
                seen = reach.table[self.places(of)]
                return seen[seen >= 0].unique()
            case Touched(of, reach):
                changed = torch.zeros(prod(reach.source) + 1, dtype=torch.bool)  # the last stands for what is outside
                changed[self.places(of)] = True
                return changed[reach.table].any(1).nonzero().squeeze(1)
            case Joined(first, second):
                places = self.places(first)
                return torch.cat([places, _without(self.places(second), places)])

    def _index(self, index: Index) -> Tensor:
        match index:
            case Places(region, grid, lead, trail):
                size = prod(grid)
                ends = torch.arange(lead), torch.arange(lead + size, lead + size + trail)
                return torch.cat([ends[0], self.places(region) + lead, ends[1]])
            case Phase(region, reach):
                (_, width), (rows, columns) = reach.target, reach.enlarged
                places = self.places(region)
                return places // width % rows * columns + places % width % columns
            case Rest(whole, part):
                return _without(self.places(whole), self.places(part))
            case Lookup(region, within, reach):
                wanted = self.places(region)
                return self._found(wanted.unsqueeze(1) if reach is None else reach.table[wanted], within)
            case Squares(region, within, reach):
                seen, outputs = reach.squares
                wanted = torch.zeros(prod(reach.target) + 1, dtype=torch.bool)  # the last stands for what is outside
                wanted[self.places(region)] = True
                some = wanted[outputs].any(1)
                return torch.cat([self._found(seen[some], within), self._found(outputs[some], region)], 1)

    def _found(self, wanted: Tensor, region: Region) -> Tensor:
        """Where these places lie in the order of a region; -1 for -1, and for what it does not hold."""
        places = self.places(region)
        where = torch.full((int(max(places.max(), wanted.max())) + 2,), -1)  # the last for -1
        where[places] = torch.arange(len(places))
        return where[wanted].int()


def _without(places: Tensor, others: Tensor) -> Tensor:
    return places[~torch.isin(places, others)]


def at_grid(mask: Tensor, grid: Grid, margin: int) -> Tensor:
    """`mask` where it touches a place of `grid`, widened by `margin` places in every direction of an image or video."""
    image = mask.float()[None, None]
    if mask.shape != grid:
        finer = all(g >= m for g, m in zip(grid, mask.shape, strict=True))
        image = F.interpolate(image, grid) if finer else _coarser(image, grid)
    if margin and len(grid) > 1:
        pool = F.max_pool2d if len(grid) == 2 else F.max_pool3d
        image = pool(image, 2 * margin + 1, 1, margin)
    return image[0, 0] > 0


def _coarser(image: Tensor, grid: Grid) -> Tensor:
    pool = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(grid)]
    return pool(image, grid)

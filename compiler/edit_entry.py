"""The graph that computes some places of a value, from what was kept of all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import fx

from aquatint.compiler.edit_facts import homes, origins, plain_values
from aquatint.compiler.entries import Kept, Work
from aquatint.compiler.errors import PassError
from aquatint.compiler.formats import format_named
from aquatint.compiler.movements import is_affine, moves
from aquatint.compiler.multiply_adds import ATTENTIONS, PRODUCTS, multiply_adds, multiply_adds_before
from aquatint.compiler.regions import Index, Lookup, Phase, Places, Reach, Region, Rest, Seen, Squares, joined
from aquatint.compiler.row_order import from_rows, in_rows
from aquatint.compiler.spatial import Spatial
from aquatint.compiler.spatial_rules import EACH, VIEWS, unpadded
from aquatint.runtime.ops import name_of, operator_named

PIXELS = ("aten::upsample_nearest2d.vec", "aten::pixel_shuffle.default", "aten::pixel_unshuffle.default")
JOINS = ("aten::add.Tensor", "aten::sub.Tensor")
NUMBERS = frozenset(f"aten::{n}" for n in EACH.split())


@dataclass
class EditBuilder:
    """Builds the entry `edit` from a graph whose layouts are known.

    format    in which values are kept, where their channels allow it
    dropped   values that are not kept: their neighbours are computed again, from what is kept before them; or all of one
              that the image does not reach, from the inputs
    norms     do the statistics of group norms follow what an edit changes?
    reaching  is all computed that an edit reaches through convolutions? Else the mask at every resolution, and a margin
    """

    graph: fx.Graph
    known: Spatial
    format: str | None
    dropped: frozenset[str]
    norms: bool
    reaching: bool = False
    new: fx.Graph = field(default_factory=fx.Graph)
    kept: dict[tuple[fx.Node, str], Kept] = field(default_factory=dict)
    work: dict[tuple[fx.Node, Region], Work] = field(default_factory=dict)
    whole_nodes: dict[fx.Node, None] = field(default_factory=dict)
    _whole: dict[fx.Node, Any] = field(default_factory=dict)
    _again: dict[fx.Node, Any] = field(default_factory=dict)
    _rows: dict[tuple[fx.Node, Region], Any] = field(default_factory=dict)
    _inputs: dict[Any, fx.Node] = field(default_factory=dict)
    _plain: set[fx.Node] = field(default_factory=set)
    _sources: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    _homes: dict[fx.Node, Region] = field(default_factory=dict)

    def build(self) -> list[fx.Node]:
        """The nodes that are the program's results in the new graph; `updates` come behind them."""
        results: list[fx.Node] = list(self.graph.output_node().args[0])  # type: ignore[arg-type]
        self._plain, self._sources = plain_values(self.known, results), origins(self.graph)
        self._homes = homes(self.graph, self.known, self.reaching)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._whole[node] = self.new.placeholder(node.name)
        for node in self.graph.nodes:  # in order, so that none has far to reach back
            if node in self.known.layouts and self._is_anchor(node):
                self.rows(node, self.home(node))
        return [self.whole(node) for node in results]

    def home(self, node: fx.Node) -> Region:
        """Where a value is computed."""
        return self._homes[node]

    def input(self, key: Any, name: str) -> fx.Node:
        """An input of the new graph that stands for an index, or for a tensor of what is kept."""
        if key not in self._inputs:
            last = [n for n in self.new.nodes if n.op == "placeholder"][-1]
            with self.new.inserting_after(last):
                self._inputs[key] = self.new.placeholder(name)
        return self._inputs[key]

    def index(self, index: Index) -> fx.Node:
        return self.input(index, "index")

    def call(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self.new.call_function(operator_named(name), args, kwargs)

    # Whole values

    def whole(self, node: fx.Node) -> Any:
        """All places of a value."""
        if node not in self._whole:
            self._whole[node] = self._find_whole(node)
        return self._whole[node]

    def _find_whole(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self.new.get_attr(str(node.target))
        if node.name not in self.known.shapes:  # a size, or several results
            return self._copied(node)
        if is_affine(node):
            return self._affine(node)
        if node not in self.known.changes:
            return self._made_again(node) if node.name in self.dropped else self._keep_whole(node)
        kind = self.known.seeing[node].kind if node in self.known.seeing else "whole"
        if kind in ("lead", "trail"):
            return self._end(node, kind)
        if node in self.known.layouts and kind != "whole" and not moves(node):
            return self._merged(node)
        if kind == "whole" and not moves(node) and any(n in self.known.layouts for n in node.all_input_nodes):
            self.whole_nodes[node] = None
        return self._copied(node)

    def _copied(self, node: fx.Node) -> fx.Node:
        """The node as it is, on whole values."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.whole)  # type: ignore[misc]
        return self.new.call_function(node.target, args, kwargs)  # type: ignore[arg-type]

    def _made_again(self, node: fx.Node) -> Any:
        """A value that the image does not reach, from the inputs."""
        if node.op != "call_function":
            return self.whole(node)
        if node not in self._again:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._made_again)  # type: ignore[misc]
            self._again[node] = self.new.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
        return self._again[node]

    def _affine(self, node: fx.Node) -> fx.Node:
        """Those of the recorded run (SIGE, section 3.3); they may follow what an edit changes."""
        norm: fx.Node = node.args[0]  # type: ignore[assignment]
        image: fx.Node = norm.args[0]  # type: ignore[assignment]
        if not self.norms or image not in self.known.layouts or self.dropped.intersection(n.name for n in self._parts(image)):
            return self._keep_whole(node)
        if norm not in self._whole:
            parts = sorted((n for n in norm.users if is_affine(n)), key=lambda n: n.args[1])  # type: ignore[arg-type,return-value]
            kept = [self._keep(part, "norm", self.known.shapes[part.name], None)[0] for part in parts]
            layout, home = self.known.layouts[image], self.home(image)
            old, new = (in_rows(self.new, layout, rows) for rows in (self._before(image, home), self.rows(image, home)))
            options = {"groups": norm.args[1], "count": prod(layout.grid), "eps": norm.kwargs["eps"]}
            self._whole[norm] = self.call("aquatint::moved_affine", *kept, old, new, **options)
        return self.call("python::getitem", self._whole[norm], node.args[1])

    def _parts(self, node: fx.Node) -> list[fx.Node]:
        """The values that are joined to this one; or itself."""
        joins = name_of(node.target) in ("aten::cat.default", "aten::concat.default")
        return list(node.args[0]) if joins else [node]  # type: ignore[arg-type]

    def _before(self, node: fx.Node, region: Region) -> fx.Node:
        """What a value was in the recorded run."""
        if (parts := self._parts(node)) != [node]:
            return self.call("aten::cat.default", [self._before(n, region) for n in parts], *node.args[1:])
        layout, kept = self.known.layouts[node], self._keep_rows(node)
        places = self.index(Places(region, layout.grid, *layout.ends))
        rows = self.call("aquatint::recall", *kept, places, format=self.kept[node, "rows"].format)
        return self._from_rows(node, rows, [-1, *[1] * (len(layout.axes) - 1)])

    def _keep_whole(self, node: fx.Node) -> Any:
        return self._keep(node, "whole", self.known.shapes[node.name], None)[0]

    def _end(self, node: fx.Node, kind: str) -> fx.Node:
        """What stands before or behind the grid of a sequence; it is computed with every edit."""
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        if name_of(node.target) == "python::getitem":
            source = source.args[0]  # type: ignore[assignment]
        layout = self.known.layouts[source]
        lead, trail = layout.ends
        begin, end = (0, lead) if kind == "lead" else (-trail, 2**62)
        return self.call("aten::slice.Tensor", self.rows(source, self.home(source)), layout.axes[0], begin, end)

    def _merged(self, node: fx.Node) -> fx.Node:
        """What was kept, with the new rows at their places."""
        layout, home = self.known.layouts[node], self.home(node)
        kept = self._keep_rows(node)
        index = self.index(Places(home, layout.grid, *layout.ends))
        rows = in_rows(self.new, layout, self.rows(node, home))
        merged = self.call("aquatint::merge", *kept, rows, index, format=self.kept[node, "rows"].format)
        return self._from_rows(node, merged, [*self._extents(node)])

    # Rows

    def rows(self, node: fx.Node, region: Region) -> Any:
        """A value at the places of a region: its first axis of places holds them, its others have length 1."""
        if (node, region) not in self._rows:
            self._rows[node, region] = self._find_rows(node, region)
        return self._rows[node, region]

    def _find_rows(self, node: fx.Node, region: Region) -> Any:
        layout, seeing = self.known.layouts[node], self.known.seeing[node]
        if seeing.kind == "whole":
            return self._taken(node, self.whole(node), layout.axes, Places(region, layout.grid, *layout.ends))
        home = self.home(node)
        if region != home and self._is_anchor(node) and node.name not in self.dropped:
            return self._recalled(node, region)
        if seeing.kind == "grid":
            return self._grid(node, region)
        if seeing.reach is None:
            return self._same_places(node, region)
        return self._reaching(node, region)

    def _recalled(self, node: fx.Node, region: Region) -> fx.Node:
        """What is computed at its home, and for other places what was kept."""
        layout, home = self.known.layouts[node], self.home(node)
        if layout.ends != (0, 0):
            return self._taken(node, self.whole(node), layout.axes, Places(region, layout.grid, *layout.ends))
        new, kept = self.rows(node, home), self._keep_rows(node)
        both = joined(home, region)
        places, axis = self.index(Rest(both, home)), layout.axes[0]
        rows = self.call(
            "aquatint::recall", *kept, places, in_rows(self.new, layout, new), format=self.kept[node, "rows"].format
        )
        together = self._from_rows(node, rows, [-1, *[1] * (len(layout.axes) - 1)])
        if getattr(region, "first", None) == home:
            return together
        return self.call("aquatint::take", together, self._flat(Lookup(region, both)), axis=axis, axes=len(layout.axes))

    def _flat(self, table: Lookup) -> fx.Node:
        """A table of one tap as places."""
        key = ("flat", table)
        if key not in self._inputs:
            self._inputs[key] = self.call("aten::flatten.using_ints", self.index(table))
        return self._inputs[key]

    def _grid(self, node: fx.Node, region: Region) -> fx.Node:
        """The places of a sequence without those before and behind them."""
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        if name_of(node.target) == "python::getitem":
            source = source.args[0]  # type: ignore[assignment]
        layout = self.known.layouts[source]
        lead, trail = layout.ends
        rows = self.rows(source, region)
        return self.call("aten::slice.Tensor", rows, layout.axes[0], lead, -trail if trail else 2**62)

    def _same_places(self, node: fx.Node, region: Region) -> fx.Node:
        name, layout = name_of(node.target) or "", self.known.layouts[node]
        packet = name.split(".")[0]
        self._count(node, region)
        if packet == "aten::expand":
            sizes = [-1 if m else s for m, s in zip(layout.marks, self.known.shapes[node.name], strict=True)]
            return self.call(name, self.rows(node.args[0], region), sizes)  # type: ignore[arg-type]
        if packet.removeprefix("aten::") in VIEWS.split() and packet not in ("aten::contiguous", "aten::clone", "aten::alias"):
            return self.call("aten::reshape.default", self.rows(node.args[0], region), self._row_shape(node))  # type: ignore[arg-type]
        seen_whole = node.args[1:3] if name in ATTENTIONS else ()
        by_number = packet in NUMBERS or packet in ("aten::cat", "aten::concat")

        def given(source: fx.Node) -> Any:
            if source in self.known.layouts and source not in seen_whole:
                return self.rows(source, region)
            return self._operand(source, node, region) if by_number else self.whole(source)

        args, kwargs = fx.map_arg((node.args, node.kwargs), given)  # type: ignore[misc]
        affine = ("gain", "offset") if packet == "aquatint::quantize" else ("gate", "residual")
        kwargs = {k: self._aligned(v, node, region) if k in affine else kwargs[k] for k, v in node.kwargs.items()}
        if packet == "aquatint::quantize":
            args = (*args[:3], *(self._aligned(v, node, region) for v in node.args[3:]))
        return self.new.call_function(node.target, args, kwargs)  # type: ignore[arg-type]

    def _aligned(self, value: Any, node: fx.Node, region: Region) -> Any:
        if not isinstance(value, fx.Node):
            return value
        return self.rows(value, region) if value in self.known.layouts else self._operand(value, node, region)

    def _operand(self, source: fx.Node, node: fx.Node, region: Region) -> Any:
        """An operand that has no layout of its own: at the places of a region if it has a number for each place."""
        layout, shape = self.known.layouts[node], self.known.shapes.get(source.name, ())
        rank = len(layout.marks)
        axes = [d - rank + len(shape) for d in layout.axes]
        if min(axes) < 0 or shape[axes[0]] == 1 or self._is_end(source, node):
            return self.whole(source)
        return self._taken(source, self.whole(source), axes, Places(region, layout.grid, *layout.ends))

    def _is_end(self, source: fx.Node, node: fx.Node) -> bool:
        """Is this joined to a sequence, before or behind its places?"""
        cat = (name_of(node.target) or "").startswith(("aten::cat", "aten::concat"))
        axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) if cat else 0  # type: ignore[arg-type]
        return cat and self.known.layouts[node].marks[axis] is not None

    def _taken(self, node: fx.Node, whole: Any, axes: Sequence[int], index: Places) -> fx.Node:
        if list(axes) != list(range(axes[0], axes[0] + len(axes))):
            raise PassError(f"%{node.name} holds its places in axes {list(axes)}, which do not lie side by side")
        return self.call("aquatint::take", whole, self.index(index), axis=axes[0], axes=len(axes))

    def _reaching(self, node: fx.Node, region: Region) -> fx.Node:
        source, _ = unpadded(node.args[0])
        reach = self.known.seeing[node].reach
        assert reach is not None
        within = joined(self.home(source), Seen(region, reach))
        self._count(node, region)
        if name_of(node.target) in PIXELS:
            return self._pixels(node, region, within, reach)

        def given(n: fx.Node) -> Any:
            return self.rows(n, within) if n in self.known.layouts and n not in others else self.whole(n)

        others = [node.kwargs.get("gate"), node.kwargs.get("residual")]
        args = fx.map_arg((source, *node.args[1:]), given)
        options = {k: self._aligned(v, node, region) if k in ("gate", "residual") else v for k, v in node.kwargs.items()}
        options["table"] = self.index(Lookup(region, within, reach))
        if node.kwargs.get("by_squares"):
            options["squares"] = self.index(Squares(region, within, reach))
        return self.new.call_function(node.target, args, options)  # type: ignore[arg-type]

    def _pixels(self, node: fx.Node, region: Region, within: Region, reach: Reach) -> fx.Node:
        """Places that are those of another resolution: enlarged, or channels that become places, or the other way about."""
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        table = self._flat(Lookup(region, within, reach))
        seen = self.call("aquatint::take", self.rows(source, within), table, axis=2, axes=2)
        if name_of(node.target) == "aten::pixel_shuffle.default":
            phase = self.index(Phase(region, reach))
            return self.call("aquatint::pick", seen, phase, count=prod(reach.enlarged))
        taps = prod(reach.kernel)
        if taps == 1:
            return seen
        batch, channels = self.known.shapes[source.name][:2]
        apart = self.call("aten::reshape.default", seen, [batch, channels, -1, taps])
        together = self.call("aten::permute.default", apart, [0, 1, 3, 2])
        return self.call("aten::reshape.default", together, [batch, channels * taps, -1, 1])

    def _count(self, node: fx.Node, region: Region) -> None:
        if name_of(node.target) in PRODUCTS:
            layout, dense = self.known.layouts[node], multiply_adds(self.known, node)
            places = prod(layout.grid) + sum(layout.ends)
            self.work[node, region] = Work(node.name, region, dense / places, sum(layout.ends), dense)

    # What is kept

    def _is_anchor(self, node: fx.Node) -> bool:
        """A value whose neighbours are kept rather than computed again: a product, or where two streams meet."""
        name = name_of(node.target)
        if name in PRODUCTS:
            return True
        return name in JOINS and sum(n in self.known.layouts for n in node.all_input_nodes) > 1

    def _keep_rows(self, node: fx.Node) -> tuple[Any, Any]:
        layout = self.known.layouts[node]
        shape = [self.known.shapes[node.name][d] for d in layout.order()]
        places = prod(layout.grid) + sum(layout.ends)
        kept = (prod(shape) // (places * prod(shape[1 + len(layout.axes) :])), places, prod(shape[1 + len(layout.axes) :]))
        return self._keep(node, "rows", kept, None if node in self._plain else self.format_for(kept[-1]))

    def format_for(self, width: int) -> str | None:
        """The format for rows of so many numbers: the one asked for, or 8 bits where it does not fit."""
        if self.format is None or format_named(self.format).refusal(width) is None:
            return self.format
        return "int8"

    def _keep(self, node: fx.Node, form: str, shape: tuple[int, ...], format: str | None) -> tuple[Any, Any]:
        places, cost = None, 0.0
        if form == "rows":
            layout = self.known.layouts[node]
            places = Places(self.home(node), layout.grid, *layout.ends)
            cost = multiply_adds(self.known, node) / shape[1]
        if form == "whole":
            cost = multiply_adds_before(self.known, node)
        self.kept[node, form] = Kept(node.name, form, format, shape, self._sources[node], places, cost)
        codes = self.input((node, form, "codes"), f"{node.name}_kept")
        return codes, self.input((node, form, "scales"), f"{node.name}_scales") if format else None

    def _from_rows(self, node: fx.Node, rows: Any, extents: list[int]) -> fx.Node:
        return from_rows(self.new, self.known.layouts[node], self.known.shapes[node.name], rows, extents)

    def _extents(self, node: fx.Node) -> list[int]:
        layout, shape = self.known.layouts[node], self.known.shapes[node.name]
        return [shape[d] for d in layout.axes]

    def _row_shape(self, node: fx.Node) -> list[int]:
        """Of a view at some places."""
        layout, shape = self.known.layouts[node], self.known.shapes[node.name]
        first, *others = layout.axes
        return [-1 if d == first else 1 if d in others else size for d, size in enumerate(shape)]

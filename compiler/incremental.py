"""Two further entries of a program: `record`, which also gives what an edit will need, and `edit`, which computes some places.

Both are made of one graph, so that what an edit computes at a place where nothing has changed is what was recorded, to the
last bit where nothing is rounded in between.
"""

from __future__ import annotations

from itertools import pairwise

from torch import fx

from aquatint.compiler.edit_entry import EditBuilder
from aquatint.compiler.entries import Incremental, Kept
from aquatint.compiler.regions import Index
from aquatint.compiler.row_order import in_rows
from aquatint.compiler.spatial import Spatial
from aquatint.runtime.ops import operator_named


def incremental(
    graph: fx.Graph, known: Spatial, format: str | None = None, dropped: frozenset[str] = frozenset(), norms: bool = True,
    reaching: bool = False,
) -> Incremental:  # fmt: skip
    """Both entries, from a graph with rowwise products and group norms as gain and offset (see compiler/rowwise.py)."""
    builder = EditBuilder(graph, known, format, dropped, norms, reaching)
    results = builder.build()
    kept = {key: k for key, k in builder.kept.items() if builder._inputs[(*key, "codes")].users}
    updates: list[fx.Node] = []
    for (node, form), k in kept.items():
        if form == "rows":
            rows = in_rows(builder.new, known.layouts[node], builder.rows(node, builder.home(node)))
            updates += _encoded(builder.new, rows, k.format)
        if form == "norm":
            updates.append(builder.whole(node))
    builder.new.output([*results, *updates])
    indices = _ordered_inputs(builder, graph, list(kept))
    return Incremental(
        _record(graph, known, kept), builder.new, known.layouts[known.image].grid, tuple(indices), tuple(kept.values()),
        tuple(builder.work.values()), tuple(n.name for n in builder.whole_nodes),
    )  # fmt: skip


def _ordered_inputs(builder: EditBuilder, graph: fx.Graph, kept: list[tuple[fx.Node, str]]) -> list[Index]:
    """Drop what nothing reads, and put the inputs in order: the program's, indices, what is kept. Returns the indices."""
    new = builder.new
    for node in reversed(list(new.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            new.erase_node(node)
    inputs = {key: n for key, n in builder._inputs.items() if n.op == "placeholder"}
    own = [n for n in new.nodes if n.op == "placeholder" and n not in inputs.values()]
    indices = [key for key, n in inputs.items() if not isinstance(key, tuple) and n.users]
    parts = [(*key, part) for key in kept for part in ("codes", "scales") if (*key, part) in inputs]
    order = [*own, *(inputs[i] for i in indices), *(inputs[p] for p in parts)]
    for node in inputs.values():
        if node not in order:
            new.erase_node(node)
    for before, node in pairwise(order):
        before.append(node)
    return indices


def _record(graph: fx.Graph, known: Spatial, kept: dict[tuple[fx.Node, str], Kept]) -> fx.Graph:
    new, copies = fx.Graph(), {}
    results = new.graph_copy(graph, copies)
    more: list[fx.Node] = []
    for (node, form), k in kept.items():
        value = copies[node]
        more += _encoded(new, in_rows(new, known.layouts[node], value), k.format) if form == "rows" else [value]
    new.output([*results, *more])  # type: ignore[misc]
    return new


def _encoded(graph: fx.Graph, rows: fx.Node, format: str | None) -> list[fx.Node]:
    if format is None:
        return [rows]
    codes = graph.call_function(operator_named("aquatint::quantize"), (rows,), {"format": format, "axis": -1})
    item = operator_named("python::getitem")
    return [graph.call_function(item, (codes, i)) for i in (0, 1)]

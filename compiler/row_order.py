"""Values as rows (batch, places, channels), and back in the order of their own axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from aquatint.compiler.layout import Layout
from aquatint.runtime.ops import operator_named


def in_rows(graph: fx.Graph, layout: Layout, value: Any) -> fx.Node:
    """A value as (batch, places, channels): all its places, or some of them."""
    call, order = graph.call_function, layout.order()
    if order != list(range(len(order))):
        value = call(operator_named("aten::permute.default"), (value, order))
    width = len(order) - 1 - len(layout.axes)
    if len(layout.axes) > 1:
        value = call(operator_named("aten::flatten.using_ints"), (value, 1, len(layout.axes)))
    if width > 1:
        return call(operator_named("aten::flatten.using_ints"), (value, 2, -1))
    return value if width else call(operator_named("aten::unsqueeze.default"), (value, -1))


def from_rows(graph: fx.Graph, layout: Layout, shape: Sequence[int], rows: Any, extents: Sequence[int]) -> fx.Node:
    """Rows in the order of the axes of a value of this shape, with these extents of its axes of places."""
    order = layout.order()
    batch, rest = order[0], order[1 + len(layout.axes) :]
    sizes = [shape[batch], *extents, *(shape[d] for d in rest)]
    opened = graph.call_function(operator_named("aten::reshape.default"), (rows, sizes))
    back = sorted(range(len(order)), key=lambda i: order[i])
    if back == list(range(len(back))):
        return opened
    return graph.call_function(operator_named("aten::permute.default"), (opened, back))

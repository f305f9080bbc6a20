"""A graph of which each row can be computed alone: its products by rows, its group norms as gain and offset."""

from __future__ import annotations

from typing import Any

from torch import fx

from aquatint.compiler.spatial import Spatial
from aquatint.compiler.spatial_rules import argument, pair
from aquatint.runtime.ops import name_of, operator_named
from aquatint.runtime.ops.sparse import can_go_by_squares

NORM = "aquatint::group_affine"
FEW = 32  # channels, in or out; with fewer, what stands around the products of squares takes longer than they save


def prepared(graph: fx.Graph, known: Spatial) -> fx.Graph:
    """A copy with products of which each row is the same however many are computed, and group norms as gain and offset."""
    new, copies = fx.Graph(), {}
    new.output(new.graph_copy(graph, copies))
    for node in list(graph.nodes):
        change = _CHANGES.get(name_of(node.target) or "") if node in known.changes else None
        if change and (node in known.layouts or name_of(node.target) in NORMS):
            copy = copies[node]
            with new.inserting_before(copy):
                replacement = change(new, copy, known, node)
            if replacement is not copy:
                copy.replace_all_uses_with(replacement)
            if not copy.users:
                new.erase_node(copy)
    return new


def _affine(graph: fx.Graph, x: Any, groups: Any, weight: Any, bias: Any, eps: Any) -> list[fx.Node]:
    """Gain and offset from the statistics alone, and the norm's own weight and bias behind them."""
    call, item = graph.call_function, operator_named("python::getitem")
    plain = call(operator_named(NORM), (x, groups), {"eps": eps})
    parts = [call(item, (plain, i)) for i in (0, 1)]
    if weight is not None:
        parts = [call(operator_named("aten::mul.Tensor"), (part, weight)) for part in parts]
    return parts if bias is None else [parts[0], call(operator_named("aten::add.Tensor"), (parts[1], bias))]


def _group_affine(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    weight, bias = (*node.args[2:], None, None)[:2]
    if weight is None and bias is None:
        return node
    parts = _affine(graph, node.args[0], node.args[1], weight, bias, node.kwargs["eps"])
    for user in list(node.users):
        user.replace_all_uses_with(parts[user.args[1]])  # type: ignore[call-overload]
        graph.erase_node(user)
    return node


def _group_norm(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    x, groups, weight, bias, eps = (*node.args, *(None, None, 1e-5)[len(node.args) - 2 :])[:5]
    call = graph.call_function
    gain, offset = (
        call(operator_named("aten::movedim.int"), (part, -1, 1)) for part in _affine(graph, x, groups, weight, bias, eps)
    )
    scaled = call(operator_named("aten::mul.Tensor"), (x, gain))
    return call(operator_named("aten::add.Tensor"), (scaled, offset))


def _linear(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    return graph.call_function(operator_named("aquatint::rowwise_linear"), node.args, node.kwargs)


def _convolution(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    options: dict[str, Any] = {
        name: list(pair(argument(node, place, name, default)))
        for name, place, default in (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1))
    }
    options["groups"] = groups = argument(node, 6, "groups", 1)
    weight = known.shapes[old.args[1].name]  # type: ignore[union-attr]
    worthwhile = min(weight[:2]) >= FEW
    options["by_squares"] = worthwhile and can_go_by_squares(weight, options["stride"], options["dilation"], groups)
    bias = argument(node, 2, "bias")
    return graph.call_function(operator_named("aquatint::rowwise_conv2d"), (*node.args[:2], bias), options)


def _matmul(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    """The operand that has the places is the one whose rows they are."""
    call = graph.call_function
    transpose, product = operator_named("aten::transpose.int"), operator_named("aquatint::rowwise_matmul")
    a, b = node.args[:2]
    if old.args[0] in known.layouts:
        return call(product, (a, call(transpose, (b, -2, -1))))
    return call(transpose, (call(product, (call(transpose, (b, -2, -1)), a)), -2, -1))


def _type_as(graph: fx.Graph, node: fx.Node, known: Spatial, old: fx.Node) -> fx.Node:
    return graph.call_function(operator_named("aten::to.dtype"), (node.args[0], known.dtypes[old.name]))


NORMS = ("aten::group_norm.default", NORM)
_CHANGES = {
    NORM: _group_affine,
    "aten::group_norm.default": _group_norm,
    "aten::linear.default": _linear,
    "aten::conv2d.default": _convolution,
    "aten::matmul.default": _matmul,
    "aten::type_as.default": _type_as,
}

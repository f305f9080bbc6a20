"""A gated linear unit made part of the product whose halves it multiplies, for a target whose kernel does both.

That is a choice of where a program runs: the program itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from aquatint.compiler.edit import ITEM, activation_of, is_call
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops
from aquatint.runtime.ops.meanings import ACTIVATIONS


def gated(graph: fx.Graph, weights: Weights, gates: Callable[[int], bool]) -> fx.Graph:
    """A graph in which `gates(columns)` has been asked about every gated linear unit (arXiv 2002.05202) behind a product.

    Before:  %y = aquatint::gemm(%q.0, %q.1, ...);  %c = aten::chunk.default(%y, 2, -1)
             %g = aten::gelu.default(%c.1);  %m = aten::mul.Tensor(%c.0, %g)
    After:   %m = aquatint::gemm(%q.0, %q.1, ..., activation='gelu', active=1)

    Without one it is `graph` itself.
    """
    if not any(_unit(n, weights, gates) for n in graph.nodes):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if unit := _unit(node, weights, gates):
            product, activation, active = unit
            product.kwargs = {**product.kwargs, "activation": activation, "active": active}
            with copy.inserting_before(node):
                node.replace_all_uses_with(copy.node_copy(product))
    copy.eliminate_dead_code()
    return copy


def _unit(result: fx.Node, weights: Weights, gates: Callable[[int], bool]) -> tuple[fx.Node, str, int] | None:
    """The product of a unit that ends with `result`, and which half has which activation; if nothing else reads of it."""
    if not is_call(result, "aten::mul.Tensor") or len(result.args) != 2:
        return None
    for plain, active in (result.args, result.args[::-1]):
        activation = activation_of(active)
        if activation not in ACTIVATIONS or len(active.users) != 1:  # type: ignore[union-attr]
            continue
        chunk, other = _item(plain)
        same, index = _item(active.args[0])  # type: ignore[union-attr]
        if chunk is None or chunk is not same or {other, index} != {0, 1} or not _is_in_half(chunk):
            continue
        product = chunk.args[0]
        if _is_free(product):
            columns = weights.stored(str(product.args[2].target)).shape[0] // 2  # type: ignore[union-attr]
            return (product, activation, index) if gates(columns) else None  # type: ignore[return-value]
    return None


def _item(node: object) -> tuple[fx.Node | None, object]:
    """What `node` alone takes a part of, and which."""
    if not is_call(node, ITEM) or len(node.users) != 1:  # type: ignore[union-attr]
        return None, None
    return node.args  # type: ignore[union-attr,return-value]


def _is_in_half(chunk: fx.Node) -> bool:
    return is_call(chunk, "aten::chunk.default") and tuple(chunk.args[1:]) == (2, -1) and len(chunk.users) == 2


def _is_free(product: object) -> bool:
    """A product of codes without an epilogue that nothing else reads."""
    if not is_call(product, "aquatint::gemm") or len(product.users) != 1:  # type: ignore[union-attr]
        return False
    options = product.kwargs  # type: ignore[union-attr]
    return options["formats"][0] is not None and all(options.get(name) is None for name in ops.EPILOGUE)

"""A product and the quantize behind it made one operator, for a target whose kernel does both.

That is a choice of where a program runs: the program itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from aquatint.compiler.edit import is_call
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops


def joined(graph: fx.Graph, weights: Weights, joins: Callable[[int, str], bool]) -> fx.Graph:
    """A graph in which `joins(columns, format)` has been asked about every product and the quantize that alone reads it.

    Before:  %y = aquatint::gemm(%q.0, %q.1, ..., activation='gelu');  %p = aquatint::quantize(%y, %smooth, %down, ...)
    After:   %p = aquatint::gemm_quantize(%q.0, %q.1, ..., %smooth, %down, activation='gelu', into='int8')

    Without such a pair it is `graph` itself.
    """
    if not any(_pair(n, weights, joins) for n in graph.nodes):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for quantize in list(copy.nodes):
        if product := _pair(quantize, weights, joins):
            arguments = [*product.args, *[None] * (7 - len(product.args)), *quantize.args[1:3]]
            options = {**product.kwargs, "into": quantize.kwargs["format"], "branch": quantize.kwargs.get("branch")}
            with copy.inserting_before(quantize):
                both = copy.call_function(ops.gemm_quantize, tuple(arguments), options)
            quantize.replace_all_uses_with(both)
            copy.erase_node(quantize)
            copy.erase_node(product)
    return copy


def _pair(quantize: fx.Node, weights: Weights, joins: Callable[[int, str], bool]) -> fx.Node | None:
    """The product whose result this quantize alone reads, with nothing but smoothing in between, if one kernel does both."""
    if not is_call(quantize, "aquatint::quantize") or not is_call(quantize.args[0], "aquatint::gemm"):
        return None
    product: fx.Node = quantize.args[0]  # type: ignore[assignment]
    options = quantize.kwargs
    plain = options.get("eps") is None and not options.get("activation") and options.get("axis", -1) == -1
    if not plain or any(v is not None for v in quantize.args[3:5]) or len(product.users) != 1:
        return None
    if product.kwargs["formats"][0] is None or product.kwargs.get("active") is not None:  # type: ignore[index]
        return None  # of two halves: whole rows make small blocks, and unpacking both for each takes longer than it saves
    columns = weights.stored(str(product.args[2].target)).shape[0]  # type: ignore[union-attr]
    return product if joins(columns, str(options["format"])) else None

"""Rotary positions made one operator, for a target with a kernel for them.

That is a choice of where a program runs: the program itself stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from aquatint.compiler.edit import ITEM, is_call
from aquatint.runtime import ops

CAST = "aten::to.dtype"


def rotated(graph: fx.Graph) -> fx.Graph:
    """A graph in which neighbours that turn by an angle (arXiv 2104.09864) are one operator, with the norm before it.

    Before:  %n = aten::rms_norm.default(%x, [D], @weight, eps);  %p = aten::unbind.int(%n reshaped to pairs, -1)
             %s = aten::stack.default([-%p.1, %p.0], -1);  %y = %n * %cos + %s flattened * %sin, in float32, cast
    After:   %y = aquatint::rotary(%x, %cos, %sin, @weight, eps=eps, dtype=...)

    Without one it is `graph` itself.
    """
    if not any(_turn(n) for n in graph.nodes):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if turn := _turn(node):
            x, cos, sin = turn
            normed = _is_norm_of_rows(x)
            arguments = (x.args[0], cos, sin, x.args[2]) if normed else (x, cos, sin)
            options = {"dtype": node.args[1], **({"eps": x.args[3]} if normed else {})}
            with copy.inserting_before(node):
                node.replace_all_uses_with(copy.call_function(ops.rotary, arguments, options))
    copy.eliminate_dead_code()
    return copy


def _turn(result: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """What is turned, its cosines and its sines, if `result` is that."""
    total: Any = result.args[0] if is_call(result, CAST) and len(result.args) == 2 else None
    terms = total.args if is_call(total, "aten::add.Tensor") else ()
    if len(terms) != 2 or not all(is_call(t, "aten::mul.Tensor") and _is_float(t.args[0]) for t in terms):
        return None
    (straight, cos), (across, sin) = (t.args for t in terms)
    x = straight.args[0]
    return (x, cos, sin) if _turned_of(across.args[0]) is x else None


def _is_float(node: Any) -> bool:
    return is_call(node, CAST) and node.args[1:] == (torch.float32,)


def _turned_of(flat: Any) -> Any:
    """What `flat` has the pairs of, (a, b) as (-b, a); None if it is something else."""
    stack = flat.args[0] if is_call(flat, "aten::flatten.using_ints") and flat.args[1:] == (3,) else None
    if stack is None or not is_call(stack, "aten::stack.default"):
        return None
    pair, axis = stack.args
    if axis != -1 or len(pair) != 2 or not is_call(pair[0], "aten::neg.default"):
        return None
    second, first = pair[0].args[0], pair[1]
    if not all(is_call(n, ITEM) for n in (first, second)) or (first.args[1], second.args[1]) != (0, 1):
        return None
    unbind = first.args[0]
    if unbind is not second.args[0] or not is_call(unbind, "aten::unbind.int") or unbind.args[1:] != (-1,):
        return None
    pairs = unbind.args[0]
    in_pairs = is_call(pairs, "aten::reshape.default") and len(pairs.args[1]) == 5 and pairs.args[1][-1] == 2
    return pairs.args[0] if in_pairs else None


def _is_norm_of_rows(node: fx.Node) -> bool:
    """An RMS norm over one axis, with a weight and an epsilon, that nothing but the turn reads."""
    if not is_call(node, "aten::rms_norm.default") or len(node.args) != 4 or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return False
    return len(node.users) == 2 and node.args[2] is not None and node.args[3] is not None

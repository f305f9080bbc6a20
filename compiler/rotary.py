"""Rotary positions made one operator, for a target with a kernel for them.

That is a choice of where a program runs: the program itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from aquatint.compiler.edit import ITEM, is_call
from aquatint.runtime import ops

END = 9223372036854775807  # of a slice
FLATTEN = "aten::flatten.using_ints"


@dataclass(frozen=True)
class Turn:
    """What is turned, by which cosines and sines (or by numbers that have both), and what in: None, what it was in before."""

    x: fx.Node
    cos: fx.Node
    sin: fx.Node | None
    dtype: torch.dtype | None
    sizes: Sequence[Any] | None = None  # of x, where it may lie otherwise: samples, tokens, heads
    halves: bool = False  # is a pair half a row apart?


def rotated(graph: fx.Graph) -> fx.Graph:
    """A graph in which neighbours that turn by an angle (arXiv 2104.09864) are one operator, with the norm before it.

    Before:  %n = aten::rms_norm.default(%x, [D], @weight, eps);  %p = aten::unbind.int(%n reshaped to pairs, -1)
             %s = aten::stack.default([-%p.1, %p.0], -1);  %y = %n * %cos + %s flattened * %sin, in float32, cast
    After:   %y = aquatint::rotary(%x, %cos, %sin, @weight, eps=eps, dtype=...)

    So are pairs that are scattered to where they came from, those that are complex numbers, and those that are half a row
    apart. Without one it is `graph` itself.
    """
    if not any(_turn(n) for n in graph.nodes):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if turn := _turn(node):
            with copy.inserting_before(node):
                node.replace_all_uses_with(_rotary(copy, turn))
    copy.eliminate_dead_code()
    return copy


def _rotary(graph: fx.Graph, turn: Turn) -> fx.Node:
    cos, sin = turn.cos, turn.sin
    if sin is None:
        cos, sin = (
            graph.call_function(part, (turn.cos,)) for part in (torch.ops.aten.real.default, torch.ops.aten.imag.default)
        )
    options: dict[str, Any] = {"dtype": turn.dtype, **({"halves": True} if turn.halves else {})}
    if is_norm_of_rows(turn.x) and (turn.sizes is None or _has_heads(turn.x.args[0])):
        x, _, weight, eps = turn.x.args
        return graph.call_function(ops.rotary, (x, cos, sin, weight), {**options, "eps": eps})
    x = turn.x
    if turn.sizes is not None:
        x = graph.call_function(torch.ops.aten.reshape.default, (x, [*turn.sizes, -1]))
    return graph.call_function(ops.rotary, (x, cos, sin), options)


def _turn(result: fx.Node) -> Turn | None:
    return next((turn for form in (_stacked, _scattered, _complex) if (turn := form(result))), None)


def _stacked(result: Any) -> Turn | None:
    """x cos + stack(-b, a) sin in float32, cast: Flux, CogVideoX, HunyuanVideo; cat(-b, a): CogView4, Cosmos, OmniGen."""
    total, dtype = _cast(result)
    terms: Any = total.args if is_call(total, "aten::add.Tensor") else ()
    if len(terms) != 2 or not all(is_call(t, "aten::mul.Tensor") and _cast(t.args[0])[1] == torch.float32 for t in terms):
        return None
    (straight, cos), (across, sin) = (t.args for t in terms)
    x, other = _cast(straight)[0], _cast(across)[0]
    halves = is_call(other, "aten::cat.default")
    joined: Any = other if halves else other.args[0] if is_call(other, FLATTEN) and other.args[1:] == (3,) else None
    if not halves and not is_call(joined, "aten::stack.default"):
        return None
    pair, axis = joined.args
    if axis != -1 or len(pair) != 2 or not is_call(pair[0], "aten::neg.default"):
        return None
    pairs_of = _halves_of if halves else _pairs_of
    return Turn(x, cos, sin, dtype, halves=halves) if pairs_of(pair[1], pair[0].args[0]) is x else None


def _scattered(result: Any) -> Turn | None:
    """a cos - b sin to the even places of a row, a sin + b cos to the odd ones: Wan."""
    odd = _written(result, 1)
    even = _written(odd[0], 0) if odd else None
    if odd is None or even is None or not is_call(even[0], "aten::empty_like.default"):
        return None
    minus, plus = even[1], odd[1]
    if not is_call(minus, "aten::sub.Tensor") or not is_call(plus, "aten::add.Tensor"):
        return None
    products: Any = (*minus.args, *plus.args)
    if len(products) != 4 or not all(is_call(p, "aten::mul.Tensor") for p in products):
        return None
    (a, cos), (b, sin), (same_a, same_sin), (same_b, same_cos) = (p.args for p in products)
    if (a, b) != (same_a, same_b) or not _same(cos, same_cos) or not _same(sin, same_sin):
        return None
    x = _pairs_of(a, b)
    if x is None or even[0].args[0] is not x or minus.kwargs or plus.kwargs:
        return None
    return Turn(x, cos, sin, even[0].kwargs.get("dtype"))


def _complex(result: Any) -> Turn | None:
    """Pairs as complex numbers times others, in float32, cast: Qwen-Image, Lumina."""
    back = is_call(result, "aten::type_as.default")
    flat, dtype = (result.args[0], None) if back else _cast(result)
    real: Any = flat.args[0] if is_call(flat, FLATTEN) and flat.args[1:] == (3,) else None
    product: Any = real.args[0] if is_call(real, "aten::view_as_real.default") else None
    if not is_call(product, "aten::mul.Tensor") or not is_call(product.args[0], "aten::view_as_complex.default"):
        return None
    wide = _whole(product.args[0].args[0])
    x, wider = _cast(wide)
    if wider != torch.float32 or (back and result.args[1] not in (x, wide)):
        return None
    return Turn(x, product.args[1], None, dtype, product.args[0].args[0].args[1][:3])


def _cast(node: Any) -> tuple[Any, Any]:
    """What `node` casts, and to what; None twice if it does not."""
    if is_call(node, "aten::to.dtype") and len(node.args) == 2:
        return node.args
    if is_call(node, "aten::_to_copy.default") and set(node.kwargs) == {"dtype"}:
        return node.args[0], node.kwargs["dtype"]
    return None, None


def _whole(pairs: Any, axis: int = -1) -> Any:
    """What `pairs` (B, .., .., D / 2, 2) shows the numbers of by twos; with axis -2, (B, .., .., 2, D / 2), by halves."""
    shows = is_call(pairs, "aten::reshape.default") or is_call(pairs, "aten::view.default")
    return pairs.args[0] if shows and len(pairs.args[1]) == 5 and pairs.args[1][axis] == 2 else None


def _pairs_of(first: Any, second: Any) -> Any:
    """What has these as the even and the odd numbers of its rows."""
    unbind = _parts_of(first, second)
    return _whole(unbind.args[0]) if is_call(unbind, "aten::unbind.int") and unbind.args[1:] == (-1,) else None


def _halves_of(first: Any, second: Any) -> Any:
    """What has these as the halves of its rows."""
    parts = _parts_of(first, second)
    if is_call(parts, "aten::chunk.default"):
        return parts.args[0] if parts.args[1:] == (2, -1) else None
    return _whole(parts.args[0], -2) if is_call(parts, "aten::unbind.int") and parts.args[1:] == (-2,) else None


def _parts_of(first: Any, second: Any) -> Any:
    """What these are the first two results of."""
    items = all(is_call(n, ITEM) for n in (first, second)) and (first.args[1], second.args[1]) == (0, 1)
    return first.args[0] if items and first.args[0] is second.args[0] else None


def _written(result: Any, start: int) -> tuple[Any, Any] | None:
    """What `result` is but for every second place from `start` on, and what is written there."""
    if not is_call(result, "aten::slice_scatter.default") or result.args[2:] != (3, start, END, 2):
        return None
    before, copy = result.args[:2]
    return (before, copy.args[1]) if is_call(copy, "aten::copy.default") else None


def _same(one: Any, other: Any) -> bool:
    """Are these one node, or the same slice of one?"""
    return one is other or (
        is_call(one, "aten::slice.Tensor") and is_call(other, "aten::slice.Tensor") and one.args == other.args
    )


def _has_heads(x: Any) -> bool:
    """Is it known to be (B, .., .., D)?"""
    apart = is_call(x, "aten::unflatten.int") and x.args[1] in (-1, 2) and len(x.args[2]) == 2
    return apart or ((is_call(x, "aten::view.default") or is_call(x, "aten::reshape.default")) and len(x.args[1]) == 4)


def is_norm_of_rows(node: fx.Node) -> bool:
    """An RMS norm over one axis, with a weight and an epsilon, read as often as a turn reads it at most."""
    if not is_call(node, "aten::rms_norm.default") or len(node.args) != 4 or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return False
    return len(node.users) <= 2 and node.args[2] is not None and node.args[3] is not None

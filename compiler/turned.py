"""Rotary positions made part of the products whose results they turn, for a target whose kernel does both.

That is a choice of where a program runs: the program itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from aquatint.compiler.edit import is_call
from aquatint.compiler.rotary import END, is_norm_of_rows
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops

TOKENS = 1  # the axis of queries and keys (B, T, heads, D), and of what they are projected from (B, T, K)
PLACES = -3  # the axis of angles (1, T, D / 2, 4) that is the tokens
FOLLOWING = (*ops.EPILOGUE, "active")  # what a product that turns its result can't do with it before


@dataclass(frozen=True)
class Heads:
    """A product, so many columns of which are a head, and the norm of each head before it is turned."""

    product: fx.Node
    width: int
    norm: fx.Node | None = None
    eps: float | None = None


def turned(graph: fx.Graph, weights: Weights, turns: Callable[[int, tuple[str, str]], bool]) -> fx.Graph:
    """A graph in which `turns(width, formats)` has been asked about every product that a `rotary` alone reads.

    Before:  %y = aquatint::gemm(%q.0, %q.1, ...);  %x = aten::unflatten.int(%y, -1, [heads, D])
             %z = aquatint::rotary(%x, %cos, %sin, @weight, eps=...)
    After:   %angles = aquatint::angles(%cos, %sin, width=D)    (once for all who turn by them)
             %z = aquatint::gemm_rotary(%q.0, %q.1, ..., %angles, ..., @weight, eps=..., width=D)

    Where tokens of a text and of an image are normed apart and joined to be turned, each product turns its own and they are
    joined behind it. Without such products it is `graph` itself.
    """
    if not any(_sources(n, weights, turns) for n in graph.nodes):
        return graph
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    made: dict[tuple[Any, ...], fx.Node] = {}
    for rotary in list(copy.nodes):
        if sources := _sources(rotary, weights, turns):
            with copy.inserting_before(rotary):
                angles = _angles(copy, rotary, sources, made)
                parts = [_both(copy, *each, rotary.kwargs) for each in zip(sources, angles, strict=True)]
                whole = parts[0] if len(parts) == 1 else copy.call_function(torch.ops.aten.cat.default, (parts, TOKENS))
            rotary.replace_all_uses_with(whole)
    copy.eliminate_dead_code()
    return copy


def _both(graph: fx.Graph, heads: Heads, angles: fx.Node, options: Any) -> fx.Node:
    product = heads.product
    codes, scales, weight, weight_scales, *rest = product.args
    rest = [*rest, *[None] * (3 - len(rest))]  # bias, h, up
    kept = {name: product.kwargs[name] for name in ("formats", "dtype")}
    more = {"width": heads.width, "eps": heads.eps, "halves": options.get("halves", False)}
    return graph.call_function(
        ops.gemm_rotary, (codes, scales, weight, weight_scales, angles, *rest, heads.norm), {**kept, **more}
    )


def _angles(graph: fx.Graph, rotary: fx.Node, sources: list[Heads], made: dict[tuple[Any, ...], fx.Node]) -> list[fx.Node]:
    """The angles of one product's tokens, or of a first and a second one's; `made` has those of earlier ones."""
    cos, sin = rotary.args[1:3]
    options = {"width": sources[0].width, "halves": rotary.kwargs.get("halves", False)}
    key = (cos, sin, *options.values())
    if key not in made:
        made[key] = graph.call_function(ops.angles, (cos, sin), options)
    if len(sources) == 1:
        return [made[key]]
    count = graph.call_function(torch.ops.aten.sym_size.int, (sources[0].product.args[0], TOKENS))
    parts = ((0, count), (count, END))
    return [graph.call_function(torch.ops.aten.slice.Tensor, (made[key], PLACES, start, stop)) for start, stop in parts]


def _sources(rotary: Any, weights: Weights, turns: Callable[[int, tuple[str, str]], bool]) -> list[Heads]:
    """The products of what a rotary turns, if nothing else reads them and each can do it."""
    if not is_call(rotary, "aquatint::rotary"):
        return []
    x, weight = rotary.args[0], rotary.args[3] if len(rotary.args) > 3 else None
    eps, dtype = rotary.kwargs.get("eps"), rotary.kwargs.get("dtype")
    if eps is None and is_call(x, "aten::cat.default") and x.args[1:] == (TOKENS,) and len(x.args[0]) == 2 and _has_one(x):
        found = [_normed(part, weights) for part in x.args[0]]
    else:
        found = [_heads(x, weights, weight, eps)]
    whole = [heads for heads in found if heads and turns(heads.width, tuple(heads.product.kwargs["formats"]))]  # type: ignore[arg-type]
    fits = len(whole) == len(found) and all(dtype in (None, heads.product.kwargs["dtype"]) for heads in whole)
    return whole if fits else []


def _normed(part: Any, weights: Weights) -> Heads | None:
    """Heads with or without a norm."""
    if is_norm_of_rows(part):
        x, _, weight, eps = part.args
        return _heads(x, weights, weight, eps) if _has_one(part) else None
    return _heads(part, weights, None, None)


def _heads(x: Any, weights: Weights, norm: Any, eps: Any) -> Heads | None:
    """The product whose columns `x` shows as heads."""
    if not is_call(x, "aten::unflatten.int") or x.args[1] not in (-1, 2) or len(x.args[2]) != 2 or not _has_one(x):
        return None
    product = x.args[0]
    if not is_call(product, "aquatint::gemm") or not _has_one(product) or product.kwargs["formats"][0] is None:
        return None
    if any(product.kwargs.get(name) is not None for name in FOLLOWING):
        return None
    columns = weights.stored(str(product.args[2].target)).shape[0]
    count, width = x.args[2]
    width = columns // count if width == -1 else width
    return Heads(product, width, norm, eps) if isinstance(width, int) and columns % width == 0 else None


def _has_one(node: fx.Node) -> bool:
    """Does one other node read it?"""
    return len(node.users) == 1

"""Which operators only show what they are given, in another order or shape."""

from __future__ import annotations

from torch import fx

from aquatint.compiler.edit import ITEM
from aquatint.compiler.rowwise import NORM
from aquatint.compiler.spatial_rules import MOVES, VIEWS
from aquatint.runtime.ops import name_of

MOVEMENTS = frozenset(
    f"aten::{n}" for n in f"{VIEWS} {MOVES} chunk split split_with_sizes slice select unbind einsum".split()
) | {ITEM}


def is_affine(node: fx.Node) -> bool:
    """Is this the gain or the offset of a group norm?"""
    source = node.args[0] if name_of(node.target) == ITEM else None
    return isinstance(source, fx.Node) and name_of(source.target) == NORM


def moves(node: fx.Node) -> bool:
    """Does this only show, in another order or shape, what it is given?"""
    name = (name_of(node.target) or "").split(".")[0] if node.op == "call_function" else ""
    return name in MOVEMENTS and not is_affine(node)

"""Small edits of a program's graph that several passes make."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from aquatint.compiler.program import Program


def insert_after(program: Program, source: fx.Node) -> Any:
    """Where a node that reads `source` can be put: behind it, and behind all inputs of the program."""
    if source.op != "placeholder":
        return program.graph.inserting_after(source)
    return program.graph.inserting_after([n for n in program.graph.nodes if n.op == "placeholder"][-1])


def weight_node(program: Program, name: str, value: Tensor) -> fx.Node:
    """A new weight and a node that reads it; the caller says where."""
    program.weights[name] = value
    return program.graph.get_attr(name)

"""Small edits of a program's graph that several passes make."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from aquatint.compiler.errors import PassError
from aquatint.compiler.program import Program
from aquatint.runtime.ops import name_of

ITEM = "python::getitem"


def is_call(node: object, name: str) -> bool:
    """Is this a call of the operator `name`?"""
    return isinstance(node, fx.Node) and node.op == "call_function" and name_of(node.target) == name


def source_of(node: fx.Node) -> fx.Node:
    """The node that `node` reads first."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def activation_of(node: object) -> str:
    """The name by which our operators know this activation, or nothing."""
    if is_call(node, "aten::gelu.default"):
        return {"none": "gelu", "tanh": "gelu_tanh"}[str(node.kwargs.get("approximate", "none"))]  # type: ignore[union-attr]
    return "silu" if is_call(node, "aten::silu.default") else ""


def insert_after(program: Program, source: fx.Node) -> Any:
    """Where a node that reads `source` can be put: behind it, and behind all inputs of the program."""
    if source.op != "placeholder":
        return program.graph.inserting_after(source)
    return program.graph.inserting_after([n for n in program.graph.nodes if n.op == "placeholder"][-1])


def new_weight(program: Program, name: str, value: Tensor) -> fx.Node:
    """A weight that was not there, and a node that reads it; the caller says where. Raises PassError."""
    if name in program.weights:
        raise PassError(f"the model has a parameter called {name}, the name that this pass needs: rename it")
    return changed_weight(program, name, value)


def changed_weight(program: Program, name: str, value: Tensor) -> fx.Node:
    """A weight in another shape under its own name, and a node that reads it."""
    program.weights[name] = value
    return program.graph.get_attr(name)


def product_below(node: object) -> fx.Node | None:
    """The gemm that `node` is, or whose pixels it only moves; or the convolution that it is. Nothing else reads it."""
    if is_call(node, "aten::permute.default") and len(node.users) == 1:  # type: ignore[union-attr]
        node = node.args[0]  # type: ignore[union-attr]
    ours = is_call(node, "aquatint::gemm") or is_call(node, "aquatint::conv2d")
    return node if ours and len(node.users) == 1 else None  # type: ignore[union-attr,return-value]

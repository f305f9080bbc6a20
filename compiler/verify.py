"""The invariants of a program, checked: closed, runnable, printable (DESIGN, section 3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from aquatint.compiler.errors import VerifyError
from aquatint.compiler.execution import Execution
from aquatint.compiler.program import Program
from aquatint.compiler.text import parse, plain, text
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops


def verify(program: Program) -> None:
    """Raises VerifyError with the node and the rule that it breaks."""
    check_closed(program)
    again = parse(text(program), program)
    if not same_graph(program, again):
        raise VerifyError("the program does not come back from its own text")


def check_closed(program: Program) -> None:
    """Only operators of the table, weights that are there, sites that exist, names used after their definition."""
    seen: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and ops.name_of(node.target) is None:
            raise VerifyError(f"%{node.name} calls {node.target}, which is not in the table of operators")
        if node.op == "get_attr" and node.target not in program.weights:
            raise VerifyError(f"%{node.name} reads the weight {node.target}, which the program does not have")
        if node.op not in ("call_function", "get_attr", "placeholder", "output"):
            raise VerifyError(f"%{node.name} is a {node.op}; a program holds inputs, weights, operators and one output")
        if late := [n.name for n in node.all_input_nodes if n not in seen]:
            raise VerifyError(f"%{node.name} reads %{late[0]} before it is there")
        seen.add(node)
    if len([n for n in program.graph.nodes if n.op == "placeholder"]) != len(program.interface.inputs):
        raise VerifyError("the program has other inputs than its interface names")


def same_graph(a: Program, b: Program) -> bool:
    """Same nodes, arguments, log and shapes of weights; the numbers in the weights do not count."""
    shapes = [{k: (p.weights.stored(k).shape, p.weights.stored(k).dtype) for k in p.weights} for p in (a, b)]
    nodes = [[_row(n) for n in p.graph.nodes if n.op != "get_attr"] for p in (a, b)]
    return (a.name, a.log) == (b.name, b.log) and shapes[0] == shapes[1] and nodes[0] == nodes[1]


def _row(node: fx.Node) -> tuple[object, ...]:
    target = ops.name_of(node.target) if node.op == "call_function" else node.op
    return (node.name, target, plain(list(node.args)), {k: plain(v) for k, v in node.kwargs.items()})


def shapes(program: Program, inputs: list[Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every node's tensor for `inputs`, by running on fake tensors: nothing is computed."""
    return {name: tuple(tensor.shape) for name, tensor in faked(program, inputs).items()}


def dtypes(program: Program, inputs: list[Tensor]) -> dict[str, object]:
    """The dtype of every node's tensor for `inputs`."""
    return {name: tensor.dtype for name, tensor in faked(program, inputs).items()}


def faked(program: Program, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Every node's tensor for `inputs`, without its numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = Weights({name: mode.from_tensor(weight) for name, weight in program.weights.items()})
        execution = Execution(program.graph, weights)
        values: dict[fx.Node, Any] = {n: mode.from_tensor(t) for n, t in zip(execution.inputs, inputs, strict=True)}
        seen: dict[fx.Node, Any] = {**execution.weights, **values}
        for node in execution.nodes:
            seen[node] = values[node] = execution.step(node, values)
    return {node.name: value for node, value in seen.items() if isinstance(value, Tensor)}

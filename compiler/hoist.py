"""What follows from a text, or another condition, alone is computed once, and not in every step of a sampling loop.

Loop-invariant code motion over a loop that is not seen: a call whose conditions hold the numbers of one before takes what that
one has computed. The bits are those of a call that computes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from aquatint.compiler.edit import ITEM
from aquatint.compiler.execution import Execution
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.movements import moves
from aquatint.compiler.multiply_adds import PRODUCTS
from aquatint.compiler.repeats import Repeats
from aquatint.runtime.ops import name_of

MOST_HELD = 2  # conditions: pipelines with two calls a step make one with the text and one without
JOINED = ("aquatint::gemm_quantize", "aquatint::gemm_rotary")
WORTH_IT = frozenset((*PRODUCTS, *JOINED, "aten::conv2d.default", "aten::conv1d.default", "aten::conv3d.default"))
TIME = "timestep"
SIZE = "aten::sym_size.int"


@dataclass(frozen=True)
class Hoisted:
    """A graph in two.

    before  takes the inputs at the places `conditions`
    rest    takes those at the places `others`, then the results of `before`
    """

    before: fx.Graph
    rest: fx.Graph
    conditions: tuple[int, ...]
    others: tuple[int, ...]


def conditions_among(specs: Sequence[InputSpec]) -> tuple[int, ...]:
    """The places of inputs that stay as they are in a sampling loop: all but the image, which comes first, and the time.

    What has one number a sample, as a time has, makes too little to be worth it.
    """
    return tuple(i for i, spec in enumerate(specs) if i and len(spec.shape) > 1 and spec.path != TIME)


def hoisted(graph: fx.Graph, specs: Sequence[InputSpec], conditions: Sequence[int]) -> Hoisted | None:
    """`graph` in two; None where no product follows from the inputs at the places `conditions` alone."""
    graph = _sized_by(graph, specs, conditions)
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    given = [inputs[i] for i in conditions]
    early = _following(graph, given)
    if not any(name_of(node.target) in WORTH_IT for node in early):
        return None
    rest, held = _needed(graph, early)
    others = tuple(i for i, node in enumerate(inputs) if i not in conditions or node in rest)
    wanted = _ancestors(held)
    before = _copied(given, [n for n in graph.nodes if n in wanted and n not in given], held)
    results: list[fx.Node] = list(graph.output_node().args[0])  # type: ignore[arg-type]
    body = [n for n in graph.nodes if n in rest and n.op != "placeholder"]
    return Hoisted(before, _copied([*(inputs[i] for i in others), *held], body, results), tuple(conditions), others)


def _sized_by(graph: fx.Graph, specs: Sequence[InputSpec], conditions: Sequence[int]) -> fx.Graph:
    """A copy in which a size that a condition has too, above all the batch, is the condition's."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    inputs = [n for n in copy.nodes if n.op == "placeholder"]
    sizes = {size: (inputs[i], d) for i in conditions for d, size in enumerate(specs[i].shape) if isinstance(size, str)}
    for node in [n for n in copy.nodes if name_of(n.target) == SIZE and n.args[0] in inputs]:
        size = specs[inputs.index(node.args[0])].shape[node.args[1]]
        node.args = sizes.get(size, node.args)
    return copy


def _following(graph: fx.Graph, given: Sequence[fx.Node]) -> set[fx.Node]:
    """The calls that follow from these inputs and weights alone, and do from an input."""
    early, fixed = set(given), set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and fixed.issuperset(node.all_input_nodes)):
            fixed.add(node)
        elif node.op == "call_function" and all(n in early or n in fixed for n in node.all_input_nodes):
            early.add(node)
    return early.difference(given)


def _needed(graph: fx.Graph, early: set[fx.Node]) -> tuple[set[fx.Node], list[fx.Node]]:
    """What is left for every call to do, inputs among it, and the early values that it reads.

    Sizes, and what shows an early value in another shape, are left to do: a call takes the whole value once.
    """
    rest: set[fx.Node] = set()
    held: dict[fx.Node, None] = {}
    todo = list(graph.output_node().all_input_nodes)
    while todo:
        node = todo.pop()
        if node in early and not _is_left(node):
            held[node] = None
        elif node not in rest:
            rest.add(node)
            todo += node.all_input_nodes
    return rest, [n for n in graph.nodes if n in held]


def _is_left(node: fx.Node) -> bool:
    name = name_of(node.target) or ""
    if name == ITEM:
        return moves(node) and _is_left(node.args[0])  # type: ignore[arg-type]
    return name.startswith(("python::", SIZE, "aten::expand")) or moves(node)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    found, todo = set(), list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found


def _copied(inputs: Sequence[fx.Node], body: Sequence[fx.Node], results: Sequence[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in body:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in results])
    return graph


@dataclass(frozen=True)
class _Known:
    conditions: list[Tensor]
    results: list[Tensor]

    def is_of(self, conditions: Sequence[Tensor]) -> bool:
        return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(self.conditions, conditions, strict=True))


class Held:
    """Runs both parts of a graph, `before` where its conditions are not those of the last calls."""

    def __init__(self, parts: Hoisted, before: Repeats, rest: Repeats) -> None:
        self._parts, self._before, self._rest = parts, before, rest
        self._known: tuple[_Known, ...] = ()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        held = self._results(inputs)
        results = self._rest(*(inputs[i] for i in self._parts.others), *held)
        places = {t.untyped_storage().data_ptr() for t in held}  # the caller may write into results
        return [t.clone() if t.untyped_storage().data_ptr() in places else t for t in results]

    @property
    def refusal(self) -> str | None:
        """Why calls of the same shapes are not replayed."""
        return self._rest.refusal

    @property
    def executions(self) -> list[Execution]:
        """Of both parts."""
        return [self._before.execution, self._rest.execution]

    def calls(self, *inputs: Tensor) -> list[tuple[Execution, Sequence[Tensor]]]:
        """The executions that a call is made of, with what they take; the last one is what every call runs."""
        conditions = [inputs[i] for i in self._parts.conditions]
        others = [inputs[i] for i in self._parts.others]
        return [(self._before.execution, conditions), (self._rest.execution, [*others, *self._results(inputs)])]

    def _results(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        given = [inputs[i] for i in self._parts.conditions]
        known = self._known  # another thread may put a tuple of its own there
        found = next((k for k in known if k.is_of(given)), None)
        if found is None:
            own = [t.clone() for t in given]  # the caller may write into them
            found = _Known(own, self._before(*own))
        if not known or found is not known[0]:
            self._known = (found, *(k for k in known if k is not found))[:MOST_HELD]
        return found.results

"""What a program is: a graph of table operators, its weights by name, its outside, and the log of what was done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from aquatint.compiler.interface import Interface
from aquatint.compiler.weights import Weights, read
from aquatint.runtime import ops


@dataclass(frozen=True)
class Site:
    """One place that holds weight worth compressing, under the name that the user gave it.

    name    `blocks.0.attn.to_q`; its weight is `blocks.0.attn.to_q.weight`, or whatever the module called it
    kind    a 1x1 convolution is a linear over pixels: `kind` is "conv2d", `taps` is 1
    width   input channels
    """

    name: str
    weight: str
    bias: str | None
    kind: Literal["linear", "conv2d"]
    outputs: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def taps(self) -> int:
        """Positions of the kernel; K = taps * width."""
        return self.kernel[0] * self.kernel[1]

    @property
    def axis(self) -> int:
        """Where the input's channels lie."""
        return -1 if self.kind == "linear" else 1

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as (N, taps, width), the form in which all passes see it."""
        if self.kind == "linear":
            return weight.unsqueeze(1)
        return weight.permute(0, 2, 3, 1).reshape(self.outputs, self.taps, self.width)

    def unrows(self, rows: Tensor, like: Tensor) -> Tensor:
        """`rows` (n, taps, width) back in the layout of the weight `like`, with n outputs."""
        if self.kind == "linear":
            return rows.squeeze(1)
        return rows.reshape(len(rows), *like.shape[2:], self.width).permute(0, 3, 1, 2)


@dataclass
class Program:
    """A model as the compiler sees it. Weights are never written in place, so copies share them.

    graph     placeholders (the inputs in order), get_attr nodes (weights by name), table operators, one output list
    sampler   the scheduler configuration that it was made for, as diffusers writes it, or None
    log       the passes that it went through, as they print
    """

    name: str
    graph: fx.Graph
    weights: Weights
    interface: Interface
    sites: tuple[Site, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] | None = None
    log: tuple[str, ...] = ()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run by the operators' meaning."""
        return Execution(self)(*inputs)

    def copy(self) -> Program:
        """An independent program over the same weight tensors."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        return replace(self, graph=graph, weights=Weights(self.weights))

    def nbytes(self) -> int:
        """Bytes of all weights as the artifact stores them."""
        return sum(narrowest(w).nbytes for w in self.weights.values())

    def node_of(self, site: Site) -> fx.Node:
        """The product that reads the site's own weight."""
        (node,) = self.users_of(site.weight)
        return node

    def users_of(self, weight: str) -> list[fx.Node]:
        """The nodes that read a weight, in graph order."""
        readers = [n for n in self.graph.nodes if n.op == "get_attr" and n.target == weight]
        users = {user for reader in readers for user in reader.users}
        return [n for n in self.graph.nodes if n in users]

    def drop_unused(self) -> None:
        """Remove nodes and weights that nothing reads; every operator of the table is free of side effects."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        used = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        for name in [name for name in self.weights if name not in used]:
            del self.weights[name]


def narrowest(weight: Tensor) -> Tensor:
    """`weight` in the smallest of its dtype, bfloat16 and float16 that holds it exactly: half for an upcast checkpoint."""
    if weight.dtype != torch.float32:
        return weight
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(weight.to(dtype).float(), weight):
            return weight.to(dtype)
    return weight


Lower = Callable[[str, tuple[Any, ...], dict[str, Any]], Callable[..., Any] | None]


class Slot:
    """In the arguments of a call that is being lowered: a value that is known only at run time."""


class Execution:
    """A program made ready to run: a flat list of steps, with each value freed after its last reader.

    `lower(name, args, kwargs)` may return a kernel for a call whose arguments are known but for `Slot`s; the kernel gets
    the values of these, in order. None leaves the call to the operator's meaning.
    """

    def __init__(self, program: Program, lower: Lower | None = None) -> None:
        self.nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        self.inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
        self.results: list[fx.Node] = list(program.graph.output_node().args[0])  # type: ignore[arg-type]
        self.weights = {n: program.weights.stored(str(n.target)) for n in program.graph.nodes if n.op == "get_attr"}
        self._kernels = {n: k for n in self.nodes if lower and (k := self._lowered(n, lower))}
        self._pointwise = {n for n in self.nodes if self._is_pointwise(n)}
        self._freed = self._last_reads()

    def _lowered(self, node: fx.Node, lower: Lower) -> Callable[..., Any] | None:
        known = fx.map_arg((node.args, node.kwargs), lambda n: read(self.weights[n]) if n in self.weights else Slot)
        return lower(ops.name_of(node.target) or "", *known)  # type: ignore[misc]

    def without_kernel(self) -> list[str]:
        """Our operators that run by their meaning here, a name for each node."""
        ours = [n for n in self.nodes if isinstance(n.target, ops.Operator)]
        return [ops.name_of(n.target) or "" for n in ours if n not in self._kernels]

    def _last_reads(self) -> dict[fx.Node, list[fx.Node]]:
        last = {used: node for node in self.nodes for used in node.all_input_nodes if used not in self.weights}
        freed: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            if used not in self.results:
                freed.setdefault(node, []).append(used)
        return freed

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[fx.Node, Any] = dict(zip(self.inputs, inputs, strict=True))
        for _ in self.advance(values):
            pass
        return [values[n] if n in values else read(self.weights[n]) for n in self.results]

    def advance(self, values: dict[fx.Node, Any]) -> Iterator[fx.Node]:
        """Run step by step; yields each node before it runs, when its inputs are in `values`."""
        for node in self.nodes:
            yield node
            values[node] = self.step(node, values)
            for used in self._freed.get(node, ()):
                del values[used]

    def step(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if kernel := self._kernels.get(node):
            return kernel(*(values[n] for n in argument_nodes(node) if n not in self.weights))
        if node in self._pointwise:
            return self._pixel_product(node, values)
        value_of = lambda n: values[n] if n in values else read(self.weights[n])  # noqa: E731
        args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _is_pointwise(self, node: fx.Node) -> bool:
        """Is this a convolution by a weight of the program that reads each pixel once?"""
        if node.target is not torch.ops.aten.conv2d.default or node.kwargs or node.args[1] not in self.weights:
            return False
        plain = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
        alike = all(given == usual for given, usual in zip(node.args[3:], plain, strict=False))
        return alike and self.weights[node.args[1]].shape[2:] == (1, 1)  # type: ignore[index]

    def _pixel_product(self, node: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
        """A 1 x 1 convolution as a product over pixels: as a convolution its sum is split by the number of threads."""
        given = (values[n] if n in values else read(self.weights[n]) for n in argument_nodes(node))
        x, weight, bias = (*given, None)[:3]
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1).contiguous()


def argument_nodes(node: fx.Node) -> list[fx.Node]:
    """Every node in the arguments, in order and as often as it stands there (fx's own list drops repeats)."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n) or n)
    return found

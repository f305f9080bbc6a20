"""What a program is: a graph of table operators, its weights by name, its outside, and the log of what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from aquatint.compiler.entries import Incremental
from aquatint.compiler.execution import Execution
from aquatint.compiler.interface import Interface
from aquatint.compiler.powers import Scaled, scaled
from aquatint.compiler.weights import Weights

Range = tuple[float, float]


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
    ranges    by site: (low, high) of a convolution's input before smoothing and of its bare result, where a pass observed them
    incremental  the entries `record` and `edit` over the same weights, where the pass `sparse` made them
    """

    name: str
    graph: fx.Graph
    weights: Weights
    interface: Interface
    sites: tuple[Site, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] | None = None
    log: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[Range, Range]] = field(default_factory=dict)
    incremental: Incremental | None = None

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run by the operators' meaning."""
        return Execution(self.graph, self.weights)(*inputs)

    def copy(self) -> Program:
        """An independent program over the same weight tensors, without the entries, which a change would leave behind."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        return replace(self, graph=graph, weights=Weights(self.weights), incremental=None)

    def nbytes(self) -> int:
        """Bytes of all weights as the artifact stores them."""
        return sum(smallest(name, w).nbytes for name, w in self.weights.items())

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


UP, DOWN = BRANCH = (".up", ".down")  # what the names of a low-rank branch's weights end in


def smallest(name: str, weight: Tensor) -> Tensor | Scaled:
    """A weight as it is stored, without a loss: a branch in 8 bits where it was rounded so, what else there is in 16 or 32."""
    if name.endswith(BRANCH) and weight.is_floating_point() and (found := scaled(weight, int(name.endswith(UP)))):
        return found
    return narrowest(weight)


def narrowest(weight: Tensor) -> Tensor:
    """`weight` in the smallest of its dtype, bfloat16 and float16 that holds it exactly: half for an upcast checkpoint."""
    if weight.dtype != torch.float32:
        return weight
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(weight.to(dtype).float(), weight):
            return weight.to(dtype)
    return weight

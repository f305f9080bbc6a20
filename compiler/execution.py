"""A program made ready to run: a flat list of steps, with each value freed after its last reader."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from aquatint.compiler.numerics import linear, pixel_linear
from aquatint.compiler.weights import Derived, Narrow, Weights, read
from aquatint.runtime import ops


class Kernel(Protocol):
    """What runs one call: with the values of its `ops.Slot`s in order, where it says that it can serve them."""

    def fits(self, *values: Any) -> bool: ...

    def __call__(self, *values: Any) -> Any: ...


Lower = Callable[[str, tuple[Any, ...], dict[str, Any]], Kernel | None]
Values = dict[fx.Node, Any]
Step = Callable[[Values], Any]


class Execution:
    """A program's graph and weights as steps; see `advance`.

    `lower(name, args, kwargs)` may return a kernel for a call whose arguments are known but for `ops.Slot`s; the kernel
    gets the values of these, in order. None leaves the call to the operator's meaning. `schedule` is what runs: each node, its
    step, and what nobody reads after it. With a `device` other than the CPU, what kernels leave of the weights is moved there,
    and what the graph makes anew is made there.
    """

    def __init__(
        self, graph: fx.Graph, weights: Weights, lower: Lower | None = None, device: torch.device | None = None
    ) -> None:
        self.device = None if device is None or device.type == "cpu" else device
        self.nodes = [n for n in graph.nodes if n.op == "call_function"]
        self.inputs = [n for n in graph.nodes if n.op == "placeholder"]
        self.results: list[fx.Node] = list(graph.output_node().args[0])  # type: ignore[arg-type]
        self.weights = {n: weights.stored(str(n.target)) for n in graph.nodes if n.op == "get_attr"}
        self.kernels: dict[fx.Node, Kernel] = {}
        for node in self.nodes:
            if lower and (kernel := self._lowered(node, lower)):
                self.kernels[node] = kernel
                weights.release()  # what the kernel needs of them it has laid out
        for node, stored in self.weights.items():
            changes = self.device is not None or isinstance(stored, Narrow)
            if changes and not _learns(stored) and any(user not in self.kernels for user in node.users):
                self.weights[node] = self._here_from(stored)  # once, and not in every run
        self._steps = {n: self._step(n) for n in self.nodes}
        self.schedule = self.scheduled(self.nodes)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values: Values = dict(zip(self.inputs, inputs, strict=True))
        for _ in self.advance(values):
            pass
        return [self.value(n, values) for n in self.results]

    def advance(self, values: Values) -> Iterator[fx.Node]:
        """Run step by step; yields each node before it runs, when its inputs are in `values`."""
        for node, step, freed in self.schedule:
            yield node
            values[node] = step(values)
            for used in freed:
                del values[used]

    def scheduled(self, nodes: Sequence[fx.Node]) -> list[tuple[fx.Node, Step, Sequence[fx.Node]]]:
        """The steps of all `nodes`, in an order of theirs in which each comes behind its inputs."""
        last_reads = self._last_reads(nodes)
        return [(n, self._steps[n], last_reads.get(n, ())) for n in nodes]

    def step(self, node: fx.Node, values: Values) -> Any:
        """The value of `node`, whose inputs are in `values`."""
        return self._steps[node](values)

    def without_kernel(self) -> list[str]:
        """Our operators that run by their meaning here, a name for each node."""
        ours = [n for n in self.nodes if isinstance(n.target, ops.Operator)]
        return [ops.name_of(n.target) or "" for n in ours if n not in self.kernels]

    def _lowered(self, node: fx.Node, lower: Lower) -> Kernel | None:
        def known(n: fx.Node) -> Any:
            return read(self.weights[n]) if n in self.weights else ops.Slot

        args, kwargs = fx.map_arg((node.args, node.kwargs), known)  # type: ignore[misc]
        return lower(ops.name_of(node.target) or "", args, kwargs)  # type: ignore[arg-type]

    def _last_reads(self, nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
        last = {used: node for node in nodes for used in node.all_input_nodes if used not in self.weights}
        freed: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            if used not in self.results:
                freed.setdefault(node, []).append(used)
        return freed

    def _step(self, node: fx.Node) -> Step:
        """How to run `node`: what can be settled before the first run is."""
        kernel, otherwise = self.kernels.get(node), self._by_meaning(node)
        if kernel is None:
            return otherwise
        sources = [n for n in argument_nodes(node) if n not in self.weights]

        def run(values: Values) -> Any:
            given = [values[n] for n in sources]
            return kernel(*given) if kernel.fits(*given) else otherwise(values)

        return run

    def _by_meaning(self, node: fx.Node) -> Step:
        if node.target is operator.getitem and isinstance(node.args[1], int) and node.args[0] not in self.weights:
            source, place = node.args
            return lambda values: values[source][place]  # type: ignore[index]
        if node.target is torch.ops.aten.linear.default and not node.kwargs:
            return self._product(node, linear)
        if self._is_pointwise(node):
            return self._product(node, pixel_linear)
        return self._meaning(node)

    def _product(self, node: fx.Node, product: Callable[..., Tensor]) -> Step:
        sources = argument_nodes(node)
        return lambda values: product(*[self.value(n, values) for n in sources])

    def value(self, node: fx.Node, values: Values) -> Any:
        """What `node` stands for: in `values`, or a weight."""
        if node in values:
            return values[node]
        stored = self.weights[node]
        weight = self._here_from(stored)
        if self.device is not None and not _learns(stored):
            self.weights[node] = weight  # it was left to a kernel that can't serve this call
        return weight

    def _here_from(self, stored: Any) -> Tensor:
        """A stored weight as it is read, on the device."""
        weight = read(stored)
        return weight if self.device is None else weight.to(self.device)

    def _meaning(self, node: fx.Node) -> Step:
        target: Any = node.target
        stated: tuple[Any, ...] = fx.node.map_aggregate((node.args, node.kwargs), self._here)  # type: ignore[assignment]
        arguments, options = stated
        holes = [(i, a) for i, a in enumerate(arguments) if isinstance(a, fx.Node)]
        if len(holes) == len(argument_nodes(node)):

            def flat(values: Values) -> Any:
                given: list[Any] = list(arguments)
                for i, n in holes:
                    given[i] = self.value(n, values)
                return target(*given, **options)

            return flat

        def nested(values: Values) -> Any:
            args, kwargs = fx.map_arg(stated, lambda n: self.value(n, values))  # type: ignore[misc]
            return target(*args, **kwargs)  # type: ignore[misc]

        return nested

    def _here(self, argument: Any) -> Any:
        """A device that was captured becomes the one that is run on."""
        return self.device if self.device is not None and isinstance(argument, torch.device) else argument

    def _is_pointwise(self, node: fx.Node) -> bool:
        """Is this a convolution by a weight of the program that reads each pixel once?"""
        if node.target is not torch.ops.aten.conv2d.default or node.kwargs or node.args[1] not in self.weights:
            return False
        plain = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
        alike = all(given == usual for given, usual in zip(node.args[3:], plain, strict=False))
        return alike and self.weights[node.args[1]].shape[2:] == (1, 1)  # type: ignore[index]


def _learns(stored: Any) -> bool:
    return isinstance(stored, Derived) and stored.learns


def argument_nodes(node: fx.Node) -> list[fx.Node]:
    """Every node in the arguments, in order and as often as it stands there (fx's own list drops repeats)."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n) or n)
    return found

"""A program's run on inputs of one shape on a CPU, prepared: memory laid out, views made, kernels bound to their addresses.

What is left to do then is what computes. Small models are limited by what stands around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from aquatint.compiler.arena import Layout, Room, arena_of
from aquatint.compiler.execution import Execution, Values, argument_nodes
from aquatint.compiler.order import early_first, small_ones
from aquatint.compiler.repeats import BY_NUMBERS, Recorded, goes_by_numbers, takes_by_mask
from aquatint.runtime import ops

Run = Callable[[], Any]

LARGE = 1 << 20  # bytes; from here on to copy takes longer than to bind a kernel anew
INTO = frozenset(
    f"aten::{name}"
    for name in ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "silu.default", "gelu.default", "sin.default",
                 "cos.default", "exp.default", "sigmoid.default", "tanh.default", "cat.default")
)  # fmt: skip


def recorded(execution: Execution, inputs: Sequence[Tensor]) -> Recorded:
    """An ordinary run, and the replay of what it showed where the numbers in the inputs decide no shape."""
    recording = _Recording(execution, inputs)
    if recording.by_numbers:
        return Recorded(recording.results, None, BY_NUMBERS)
    return Recorded(recording.results, Replay(execution, recording))


def replay_of(execution: Execution, inputs: Sequence[Tensor]) -> Replay:
    """A replay on its own, to measure with."""
    with torch.inference_mode(False), torch.no_grad():
        return Replay(execution, _Recording(execution, inputs))


def replay_in_place(execution: Execution, inputs: Sequence[Tensor]) -> Replay | None:
    """A replay all of whose values have their room in one memory, to be written down; None where numbers decide what runs."""
    if goes_by_numbers(execution):
        return None
    with torch.inference_mode(False), torch.no_grad():
        recording = _Recording(execution, inputs)
        return None if recording.by_numbers else Replay(execution, recording, large=None)


class Replay:
    """What a recorded run has shown, prepared; see the module.

    memory  where the values lie that a run computes;  runs  what computes them: each node with its call
    large   bytes of an input or result that is used where it lies, if that can be; None: all are copied
    """

    def __init__(self, execution: Execution, recording: _Recording, large: int | None = LARGE) -> None:
        self._execution, self._loose = execution, set() if large is None else recording.loose(large)
        self.memory, self._arena = arena_of(recording.rooms)
        self._values: Values = {}
        self.runs: list[tuple[fx.Node, Run]] = []
        for node in execution.inputs:
            if node not in self._loose:
                self._values[node] = self._place(recording.found[node], recording.homes[node])
        self._inputs: list[Tensor | None] = [self._values.get(node) for node in execution.inputs]
        for node in recording.order:
            self._prepare(execution, node, recording)

    def value(self, node: fx.Node) -> Any:
        """What stands for `node` in every run: tensors, or a number."""
        return self._execution.value(node, self._values)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        self._take(inputs)
        for _, run in self.runs:
            run()
        values = [(node, self._execution.value(node, self._values)) for node in self._execution.results]
        for node in self._loose:
            del self._values[node]
        return [value if node in self._loose else value.clone() for node, value in values]

    def seconds(self, *inputs: Tensor) -> dict[fx.Node, float]:
        """What each node takes in a run; views take nothing."""
        self._take(inputs)
        taken: dict[fx.Node, float] = {}
        for node, run in self.runs:
            began = time.perf_counter()
            run()
            taken[node] = time.perf_counter() - began
        return taken

    def _take(self, inputs: Sequence[Tensor]) -> None:
        """Behind their last reader other values have overwritten them."""
        for node, room, given in zip(self._execution.inputs, self._inputs, inputs, strict=True):
            if room is None:
                self._values[node] = given
            else:
                room.copy_(given)

    def _prepare(self, execution: Execution, node: fx.Node, recording: _Recording) -> None:
        values, found, homes = self._values, recording.found[node], recording.homes[node]
        if node in recording.fixed:
            values[node] = found
        elif node in recording.views:
            values[node] = execution.step(node, values)
        elif self._loose.intersection((node, *node.all_input_nodes)):
            if node not in self._loose:
                values[node] = self._place(found, homes)
            self.runs.append((node, self._moving(node, recording)))
        else:
            values[node] = self._place(found, homes)
            self.runs.append((node, _bound(execution, node, values)))

    def _moving(self, node: fx.Node, recording: _Recording) -> Run:
        """What runs a kernel where its inputs and results lie each time: bound once if that is a matter of addresses."""
        kernel: Any = self._execution.kernels[node]
        loose = [n for n in dict.fromkeys((node, *argument_nodes(node))) if n in self._loose]
        stand_ins = {n: recording.found[n].anew() for n in loose}
        values = {**self._values, **stand_ins}
        run = kernel.bind(values[node], *_given(self._execution, node, values))
        places = {n: run.places_of(t) if hasattr(run, "places_of") else [] for n, t in stand_ins.items()}
        if not all(places.values()):
            return partial(self._anew, kernel, node)
        for tensor in stand_ins.values():
            tensor.untyped_storage().resize_(0)  # what the call holds of it is moved before it runs
        moves = [(n, place.move) for n, found in places.items() for place in found]
        described = recording.found[node] if node in self._loose else None
        return partial(self._moved, run, moves, node, described)

    def _moved(self, run: Run, moves: Sequence[tuple[fx.Node, Callable[[int], None]]], node: fx.Node, described: Any) -> None:
        """Run a bound call with inputs and results where they lie this time; `described` is a result to make room for."""
        values = self._values
        if described is not None:
            values[node] = described.anew()
        for moving, move in moves:
            move(values[moving].data_ptr())
        run()

    def _anew(self, kernel: Any, node: fx.Node) -> None:
        """Bind the kernel to where its inputs and results lie this time, and run it."""
        values = self._values
        given = _given(self._execution, node, values)
        if node in self._loose:
            values[node] = kernel.results(*given)
        kernel.bind(values[node], *given)()

    def _place(self, found: Any, homes: Sequence[int | None]) -> Any:
        """Tensors like those that were found, each in its room."""
        if isinstance(found, Layout):
            return found.within(self._arena[homes[0]])  # type: ignore[index]
        return tuple(layout.within(self._arena[home]) for layout, home in zip(found, homes, strict=True))  # type: ignore[index]


def _given(execution: Execution, node: fx.Node, values: Values) -> list[Any]:
    """What the kernel of `node` is called with: its arguments but for weights."""
    return [values[n] for n in argument_nodes(node) if n not in execution.weights]


def _bound(execution: Execution, node: fx.Node, values: Values) -> Run:
    """What computes `node` into the tensors that stand for it."""
    results = values[node]
    kernel = execution.kernels.get(node)
    given = _given(execution, node, values)
    if kernel and hasattr(kernel, "bind") and kernel.fits(*given):
        return kernel.bind(results, *given)  # type: ignore[attr-defined]
    if ops.name_of(node.target) in INTO and isinstance(results, Tensor):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: execution.value(n, values))  # type: ignore[misc]
        into = node.target.overloadpacket.out  # type: ignore[union-attr]
        return lambda: into(*args, **kwargs, out=results)  # type: ignore[misc]
    return lambda: _copy(results, execution.step(node, values))


def _copy(results: Any, values: Any) -> None:
    for result, value in zip(_tensors(results), _tensors(values), strict=True):
        result.copy_(value)


class _Recording:
    """One ordinary run, with what it showed of every node's value.

    found  numbers as they are; of tensors how they lie, unless the node is in `fixed`
    homes  the room of each tensor of a node's value; None: in a weight, or in what is fixed
    views  nodes that only look at what others have computed;  fixed  nodes that no input reaches
    rooms  how large, from which step to which;  results  what the run gave
    served  nodes that a kernel computes which can be bound
    order  of the nodes, the execution's or a better one
    spaced  inputs that leave gaps in memory
    by_numbers  does a shape follow the numbers in a mask? Then it can be another the next time
    """

    def __init__(self, execution: Execution, inputs: Sequence[Tensor]) -> None:
        self.found: Values = {}
        self.homes: dict[fx.Node, Sequence[int | None]] = {}
        self.views: set[fx.Node] = set()
        self.fixed: set[fx.Node] = set()
        self.rooms: list[Room] = []
        self.by_numbers = False
        self.served: set[fx.Node] = set()
        self._execution = execution
        self.order = early_first(execution.nodes, small_ones(execution.inputs, inputs))
        values: Values = dict(zip(execution.inputs, inputs, strict=True))
        for node in execution.inputs:
            found = Layout.of(values[node])
            self.found[node], self.homes[node] = found, [self._new_room(found, -1)]
        self.spaced = {n for n in execution.inputs if self.found[n].strides != values[n].stride()}
        for place, (node, step, freed) in enumerate(execution.scheduled(self.order)):
            values[node] = step(values)
            self._see(node, values, place)
            for used in freed:
                del values[used]
        for node in execution.results:
            self._read(node, len(self.order))
        self.results: list[Tensor] = [execution.value(node, values) for node in execution.results]

    def _see(self, node: fx.Node, values: Values, place: int) -> None:
        value, sources = values[node], node.all_input_nodes
        self.by_numbers |= takes_by_mask(self._execution, node, values)
        for source in sources:
            self._read(source, place)
        kernel = self._execution.kernels.get(node)
        given = _given(self._execution, node, values)
        if kernel and hasattr(kernel, "bind") and kernel.fits(*given):
            self.served.add(node)
        tensors = _tensors(value)
        steady = all(n in self._execution.weights or n in self.fixed for n in sources)
        if not tensors or steady:
            self.found[node], self.homes[node] = value, [None] * len(tensors)
            self.fixed.add(node)
            return
        owners: dict[int, int | None] = {}
        if kernel is None:  # whose results are its own; to ask would read weights that it has laid out
            owners = {t.untyped_storage().data_ptr(): home for s in sources for t, home in self._owned(s, values)}
        if kernel is None and all(t.untyped_storage().data_ptr() in owners for t in tensors):
            self.views.add(node)
            self.found[node], self.homes[node] = None, [owners[t.untyped_storage().data_ptr()] for t in tensors]
            return
        layouts = [Layout.of(t) for t in tensors]
        self.found[node] = layouts[0] if isinstance(value, Tensor) else layouts
        self.homes[node] = [self._new_room(layout, place) for layout in layouts]

    def loose(self, large: int) -> set[fx.Node]:
        """Inputs of `large` bytes that kernels alone read, and such results of kernels that nothing else reads: not copied.

        They need no room, but what reads or makes them is told in every run where they lie, or bound anew.
        """
        inputs, results = self._execution.inputs, self._execution.results
        found = {
            n for n in inputs if self._takes(n) >= large and n not in results and self.served.issuperset(n.users)
        } - self.spaced
        found |= {
            n for n in results if self._takes(n) >= large and n in self.served and len(n.users) == 1 and results.count(n) == 1
        }
        for home in (home for node in found for home in self.homes[node] if home is not None):
            self.rooms[home] = replace(self.rooms[home], size=0)
        return found

    def _takes(self, node: fx.Node) -> int:
        """Bytes of a single tensor."""
        found = self.found[node]
        return math.prod(found.shape) * found.dtype.itemsize if isinstance(found, Layout) else 0

    def _owned(self, source: fx.Node, values: Values) -> list[tuple[Tensor, int | None]]:
        if source in self._execution.weights:
            return [(self._execution.value(source, values), None)]
        return list(zip(_tensors(values[source]), self.homes[source], strict=True))

    def _new_room(self, layout: Layout, place: int) -> int:
        self.rooms.append(Room(layout.nbytes, place, place))
        return len(self.rooms) - 1

    def _read(self, node: fx.Node, place: int) -> None:
        for home in self.homes.get(node, ()):
            if home is not None:
                self.rooms[home] = self.rooms[home].until(place)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [v for v in value if isinstance(v, Tensor)] if isinstance(value, (list, tuple)) else []

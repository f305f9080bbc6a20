"""What a plate holds: a replay's calls as data, with every address as a place in a memory, and the constants that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from aquatint.compiler.errors import ExportError
from aquatint.compiler.execution import Execution
from aquatint.compiler.replay import Replay, replay_in_place
from aquatint.runtime.cpu.binding import Affine, Bound, Copy
from aquatint.runtime.ops import name_of
from aquatint.runtime.plate import file
from aquatint.runtime.plate.arrays import INTO, OPERATORS, computing
from aquatint.runtime.plate.calls import KERNELS, Place, stored

CONSTANTS = 0  # the first memory; those of the parts follow
NOTHING = torch.empty(0, dtype=torch.uint8)


class PlateWriter:
    """Turns the executions of a call into data, and collects the constants that they read.

    rooms  bytes of each part's memory;  size  bytes of the constants so far
    """

    def __init__(self, name: str) -> None:
        self.name, self.rooms, self.size = name, list[int](), 0
        self._refused: list[str] = []
        self._constants: dict[int, tuple[Tensor, int]] = {}
        self._between: dict[int, tuple[Tensor, int]] = {}
        self._memory = torch.empty(0, dtype=torch.uint8)

    def parts(self, executions: Sequence[tuple[Execution, Sequence[Tensor]]], inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Each execution with what it takes: some of `inputs`, and what the one before gave. Raises ExportError."""
        found = [self._part(execution, given, inputs) for execution, given in executions]
        for part in found[:-1]:
            part["once"] = True
        if self._refused:
            raise ExportError("\n  ".join([f"{self.name} can't be written as a plate:", *dict.fromkeys(self._refused)]))
        return found

    def blocks(self) -> Iterator[np.ndarray]:
        """The constants, each filled up to the next multiple of the alignment."""
        for tensor, _ in self._constants.values():
            block = tensor.numpy()
            yield block
            yield np.zeros(_aligned(len(block)) - len(block), np.uint8)

    def _part(self, execution: Execution, given: Sequence[Tensor], inputs: Sequence[Tensor]) -> dict[str, Any]:
        replay = replay_in_place(execution, given)
        if replay is None:
            raise ExportError(f"{self.name} can't be written as a plate: the numbers in its inputs decide what runs")
        self._memory, self._between = replay.memory, {}
        self.rooms.append(_aligned(len(replay.memory)))
        results = iter(range(len(given)))
        own = [next((i for i, t in enumerate(inputs) if t is g), None) for g in given]
        return {
            "sources": [("result", next(results)) if i is None else ("input", i) for i in own],
            "once": False,
            "inputs": [self._view(replay.value(n)) for n in execution.inputs],
            "steps": [step for node, run in replay.runs for step in self._steps(replay, node, run)],
            "results": [self._view(replay.value(n)) for n in execution.results],
        }

    def _steps(self, replay: Replay, node: fx.Node, run: Any) -> list[dict[str, Any]]:
        """What a run does: a kernel's call with what is computed around it, or one operator on arrays."""
        if isinstance(run, Bound) and run.function.__name__ in KERNELS:
            before = [step for step in run.before if isinstance(step, Copy)]
            after = [step for step in run.after if isinstance(step, (Copy, Affine))]
            if len(before) + len(after) == len(run.before) + len(run.after):
                call = self._call(run, before, after)
                return [*map(self._beside, before), call, *map(self._beside, after)]
        name = name_of(node.target) or ""
        args, options = fx.map_arg((node.args, node.kwargs), replay.value)  # type: ignore[misc]
        results = replay.value(node)
        results = [results] if isinstance(results, Tensor) else list(results)
        if reason := _refusal(name, args, options, results):  # type: ignore[arg-type]
            self._refused.append(f"{node.name}: {reason}")
            return []
        return [self._operator(name, args, options, results)]  # type: ignore[arg-type]

    def _call(self, run: Bound, before: Sequence[Copy], after: Sequence[Copy | Affine]) -> dict[str, Any]:
        held = dict(map(_memory_of, _tensors_within((run.held, vars(run.call)))))
        for step in before:
            self._make_room(step.target)
        for step in after:
            for tensor in (step.source,) if isinstance(step, Copy) else (step.gain, step.offset):
                self._make_room(tensor)
        return {"kernel": run.function.__name__, "call": stored(run.call, lambda address: self._place(address, held))}

    def _view(self, tensor: Tensor) -> dict[str, Any]:
        """A tensor as an array: where it begins, its sizes, the bytes from one to the next, and its dtype."""
        start, memory = _memory_of(tensor)
        width, dtype = tensor.element_size(), str(tensor.dtype).removeprefix("torch.")
        return {
            "at": self._place(tensor.data_ptr(), {start: memory}),
            "shape": list(tensor.shape),
            "strides": [stride * width for stride in tensor.stride()],
            "dtype": "uint16" if dtype == "bfloat16" else dtype,
        }

    def _beside(self, step: Copy | Affine) -> dict[str, Any]:
        if isinstance(step, Affine):
            return self._operator("affine", (step.x, step.gain, step.offset), {}, [step.result])
        narrow = step.target.dtype == torch.bfloat16, step.source.dtype == torch.bfloat16
        kinds = {(True, False): "copy to bfloat16", (False, True): "copy from bfloat16"}
        return self._operator(kinds.get(narrow, "copy"), (step.source,), {}, [step.target])

    def _operator(self, name: str, args: Any, options: Mapping[str, Any], results: Sequence[Tensor]) -> dict[str, Any]:
        named = {option: self._value(value) for option, value in options.items()}
        return {"operator": name, "args": self._value(args), "options": named, "results": [self._view(t) for t in results]}

    def _value(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        if isinstance(value, Tensor):
            return self._view(value)
        return _plain(value)

    def _place(self, address: int, held: Mapping[int, Tensor]) -> Place:
        memory = self._memory
        if memory.data_ptr() <= address < memory.data_ptr() + len(memory):
            return [len(self.rooms), address - memory.data_ptr()]
        start, tensor = next(((s, t) for s, t in held.items() if s <= address < s + len(t)), (address, NOTHING))
        if start in self._between:
            return [len(self.rooms), self._between[start][1] + address - start]
        if start not in self._constants:
            self._constants[start] = tensor, self.size
            self.size += _aligned(len(tensor))
        return [CONSTANTS, self._constants[start][1] + address - start]

    def _make_room(self, between: Tensor) -> None:
        """For what lies between a kernel and what is computed beside it: behind the part's own memory."""
        start, memory = _memory_of(between)
        if start not in self._between:
            self._between[start] = memory, self.rooms[-1]
            self.rooms[-1] += _aligned(len(memory))


def _refusal(name: str, args: Any, options: Mapping[str, Any], results: Sequence[Any]) -> str | None:
    """Why numpy does not serve an operator on these, or None; tried, as some do not serve all options."""
    if name not in OPERATORS and name not in INTO:
        return f"no kernel and nothing in numpy serves this {name}"
    tensors = [t for t in (*args, *options.values(), *results) if isinstance(t, Tensor)]
    if halves := {str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype.itemsize == 2}:
        return f"{name} computes in {halves.pop()}, which a plate does not: load the model in float32"
    named = {option: _array(value) for option, value in options.items()}
    try:
        with np.errstate(all="ignore"):
            computing(name, _array(results), _array(args), named)()
    except IndexError:
        return None  # the numbers in this memory are anyone's
    except (ValueError, TypeError, KeyError) as error:
        return f"numpy does not serve this {name}: {error}"
    return None


def _array(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_array(item) for item in value]
    return value.numpy() if isinstance(value, Tensor) else _plain(value)


def _plain(value: Any) -> Any:
    """Numbers and words as they are; what is left are dtypes, which results have."""
    return value if isinstance(value, (bool, int, float, str)) else None


def _aligned(size: int) -> int:
    return size + -size % file.ALIGNMENT


def _memory_of(tensor: Tensor) -> tuple[int, Tensor]:
    """Where the memory begins that a tensor looks at, and its bytes."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), torch.empty(0, dtype=torch.uint8).set_(storage)


def _tensors_within(held: Any) -> Iterator[Tensor]:
    """Every tensor that is in it: what a bound call keeps alive."""
    todo, seen = [held], set[int]()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.device.type == "cpu":
                yield value
        elif isinstance(value, (list, tuple)):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
        elif type(value).__module__.startswith("aquatint."):
            todo += vars(value).values()

"""A plate opened: its memory, its calls with every address in place, and what runs them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aquatint.compiler.errors import ArtifactError, InputError
from aquatint.runtime.cpu.native import KERNEL_SETS, KernelSet, best_kernel_set, kernel_set
from aquatint.runtime.plate import file
from aquatint.runtime.plate.arrays import OPERATORS
from aquatint.runtime.plate.calls import restored

Array = np.ndarray


@dataclass(frozen=True)
class Input:
    """An input of the model: its name in a call, dtype and sizes; one number serves for all samples where it is a `vector`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    vector: bool


@dataclass(frozen=True)
class Part:
    """Steps that run together: where what they take comes from and goes to, and where their results lie.

    sources  of each input: ["input", i] of the model, or ["result", i] of the part before
    once     it runs again only where what it takes has changed: what follows from a text
    """

    sources: list[tuple[str, int]]
    inputs: list[Array]
    steps: list[Callable[[], Any]]
    results: list[Array]
    once: bool


class Plate:
    """A model at fixed sizes. Called with numpy arrays by name; gives the results by name.

    inputs, outputs  what a call takes and gives;  config, sampler  as the artifact had them;  threads  that share the work
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        """Raises ArtifactError for a file that is no plate, or was made for other kernels than this machine can run."""
        path = Path(path)
        program, constants = file.read(path)
        self.kernels = _kernels(path, str(program["kernels"]))
        self.name, self.config, self.sampler = program["name"], program["config"], program["sampler"]
        self.threads = threads or len(os.sched_getaffinity(0))
        self.inputs = [Input(i["name"], i["dtype"], tuple(i["shape"]), i["vector"]) for i in program["inputs"]]
        self.outputs: list[str] = program["outputs"]
        self._memory = [constants, *(_aligned(size) for size in program["memory"])]
        try:
            self._parts = [self._part(part) for part in program["parts"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{path} holds a step that this aquatint has no kernel for ({error}): make it anew") from error
        self._known: list[Array] = []
        self._turn = threading.Lock()

    def __call__(self, *given: Any, **named: Any) -> dict[str, Array]:
        """Inputs in their order or by name. Raises InputError for one that is missing, unknown or of other sizes."""
        arrays = self._checked(given, named)
        with self._turn, np.errstate(all="ignore"):
            results: list[Array] = []
            for part in self._parts:
                taken = [arrays[i] if kind == "input" else results[i] for kind, i in part.sources]
                if not part.once or self._is_new(taken):
                    _run(part, taken)
                results = part.results
            return {name: result.copy() for name, result in zip(self.outputs, results, strict=True)}

    def _is_new(self, conditions: list[Array]) -> bool:
        if len(self._known) == len(conditions) and all(map(np.array_equal, self._known, conditions)):
            return False
        self._known = [c.copy() for c in conditions]  # the caller may write into them
        return True

    def _checked(self, given: Sequence[Any], named: Mapping[str, Any]) -> list[Array]:
        names = [i.name for i in self.inputs]
        values = dict(zip(names, given, strict=False)) | dict(named)
        unknown = sorted(set(values) - set(names))
        if unknown or len(given) > len(names):
            raise InputError(f"{', '.join(unknown) or len(given)} given; the plate takes {', '.join(names)}")
        return [_as_asked(i, values.get(i.name)) for i in self.inputs]

    def _part(self, data: Mapping[str, Any]) -> Part:
        sources = [(str(kind), int(place)) for kind, place in data["sources"]]
        inputs, results = ([self._view(v) for v in data[name]] for name in ("inputs", "results"))
        return Part(sources, inputs, [self._step(s) for s in data["steps"]], results, bool(data["once"]))

    def _step(self, data: Mapping[str, Any]) -> Callable[[], Any]:
        if "kernel" in data:
            function, call = restored(data["kernel"], data["call"], self._address)
            table, threads = self.kernels.table, self.threads
            return lambda: function(table, call, threads)
        operator, results = OPERATORS[data["operator"]], [self._view(v) for v in data["results"]]
        args, options = self._value(data["args"]), {name: self._value(v) for name, v in data["options"].items()}
        if isinstance(operator, np.ufunc) and operator.nin == len(args) and not options:
            return lambda: operator(*args, out=results[0], casting="unsafe")
        return lambda: _put(results, operator(*args, **options))

    def _value(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self._value(item) for item in data]
        return self._view(data) if isinstance(data, dict) else data

    def _view(self, data: Mapping[str, Any]) -> Array:
        memory, offset = data["at"]
        return np.ndarray(data["shape"], data["dtype"], self._memory[memory].data, offset, data["strides"])

    def _address(self, place: Sequence[int]) -> int:
        memory, offset = self._memory[place[0]], place[1]
        if not 0 <= offset <= len(memory):
            raise ValueError(f"an address {offset} bytes into {len(memory)}")
        return memory.ctypes.data + offset


def _kernels(path: Path, name: str) -> KernelSet:
    if found := kernel_set(name) if name in KERNEL_SETS else None:
        return found
    best = best_kernel_set()
    here = f"this machine runs {best.name}" if best else "the compiled kernels are not built here"
    raise ArtifactError(f"{path} was made for the kernels {name}, and {here}: make it there, or for avx2, which runs on both")


def _aligned(size: int) -> Array:
    memory = np.empty(size + file.ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % file.ALIGNMENT
    return memory[begin : begin + size]


def _as_asked(asked: Input, value: Any) -> Array:
    array = np.asarray(value)
    if value is None or (array.shape != asked.shape and not (asked.vector and array.size == 1)):
        found = "is missing" if value is None else f"has shape {list(array.shape)}"
        raise InputError(f"{asked.name} {found}; the plate was made for {asked.dtype} {list(asked.shape)}")
    if not np.can_cast(array.dtype, asked.dtype, "same_kind"):
        raise InputError(f"{asked.name} is {array.dtype}; the plate was made for {asked.dtype}")
    return array


def _run(part: Part, taken: Sequence[Array]) -> None:
    for room, array in zip(part.inputs, taken, strict=True):
        np.copyto(room, array.reshape(()) if array.size == 1 else array, casting="same_kind")
    for step in part.steps:
        step()


def _put(results: Sequence[Array], values: Any) -> None:
    for result, value in zip(results, values if isinstance(values, tuple) else (values,), strict=True):
        value = np.asarray(value)
        np.copyto(result, value.reshape(result.shape) if value.size == result.size else value, casting="unsafe")

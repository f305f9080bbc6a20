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
from aquatint.runtime.cpu.native import KERNEL_SETS, KernelSet, best_kernel_set, kernel_set, library_paths
from aquatint.runtime.plate import file
from aquatint.runtime.plate.arrays import computing
from aquatint.runtime.plate.calls import restored

Array = np.ndarray
MOST_HELD = 2  # texts, or other conditions, whose consequences are held: with and without the one that is wanted


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
        self._memory = [constants, *(_room(size) for size in program["memory"])]
        try:
            self._parts = [self._part(part) for part in program["parts"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{path} holds a step that this aquatint has no kernel for ({error}): make it anew") from error
        self._known: list[tuple[list[Array], list[Array]]] = []
        self._turn = threading.Lock()

    def __call__(self, *given: Any, **named: Any) -> dict[str, Array]:
        """Inputs in their order or by name. Raises InputError for one that is missing, unknown or of other sizes."""
        arrays = self._checked(given, named)
        try:
            return self._called(arrays)
        except IndexError as error:
            raise InputError(f"{self.name} has no such entry in a table: {error}") from error

    def _called(self, arrays: list[Array]) -> dict[str, Array]:
        with self._turn, np.errstate(all="ignore"):
            results: list[Array] = []
            for part in self._parts:
                taken = [arrays[i] if kind == "input" else results[i] for kind, i in part.sources]
                results = self._held(part, taken) if part.once else _results(part, taken)
            return {name: result.copy() for name, result in zip(self.outputs, results, strict=True)}

    def _held(self, part: Part, conditions: list[Array]) -> list[Array]:
        """What follows from the conditions, as computed now or in one of the last calls."""
        found = next((k for k in self._known if all(map(np.array_equal, k[0], conditions))), None)
        if found is None:
            own = [c.copy() for c in conditions]  # the caller may write into them
            found = own, [r.copy() for r in _results(part, conditions)]
        self._known = [found, *(k for k in self._known if k is not found)][:MOST_HELD]
        return found[1]

    def _checked(self, given: Sequence[Any], named: Mapping[str, Any]) -> list[Array]:
        names = [i.name for i in self.inputs]
        values = dict(zip(names, given, strict=False)) | dict(named)
        wrong = sorted((set(values) - set(names)) | (set(names[: len(given)]) & set(named)))
        if wrong or len(given) > len(names):
            raise InputError(f"{', '.join(wrong) or len(given)} given; the plate takes {', '.join(names)}, each once")
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
        results, args = [self._view(v) for v in data["results"]], self._value(data["args"])
        return computing(data["operator"], results, args, {name: self._value(v) for name, v in data["options"].items()})

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
    if best is None:
        raise ArtifactError(f"{path} needs the compiled kernels, which are not at {' or '.join(map(str, library_paths()))}")
    raise ArtifactError(f"{path} was made for the kernels {name}, and the best here are {best.name}: make it for these")


def _room(size: int) -> Array:
    """So many bytes, from a multiple of the alignment on."""
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


def _results(part: Part, taken: Sequence[Array]) -> list[Array]:
    for room, array in zip(part.inputs, taken, strict=True):
        np.copyto(room, array.reshape(()) if array.size == 1 else array, casting="same_kind")
    for step in part.steps:
        step()
    return part.results

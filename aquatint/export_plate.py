"""A compressed model as a plate: one file that runs it at fixed sizes on a CPU, with numpy and without torch.

What a replay calls again and again is written down: each kernel's call with its addresses as places in a memory, and what they
read and no run writes. `aquatint.Plate` maps the file, puts the addresses back and calls.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from aquatint.compiler.by_step import steps_of
from aquatint.compiler.errors import ExportError
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.onnx_graph import interface_names
from aquatint.compiler.replay import Replay, replay_in_place
from aquatint.runtime.cpu.binding import Bound, Copy
from aquatint.runtime.cpu.native import KERNEL_SETS, KernelSet, best_kernel_set, kernel_set
from aquatint.runtime.cpu.target import Cpu
from aquatint.runtime.ops import name_of
from aquatint.runtime.plate import file
from aquatint.runtime.plate.arrays import OPERATORS
from aquatint.runtime.plate.calls import KERNELS, Place, stored
from aquatint.runtime.plate.plate import Plate

CONSTANTS = 0  # the first memory; those of the parts follow
LEAST = 15.0  # dB: a code that turns is not what a wrong address is


@dataclass(frozen=True)
class Plated:
    """What was written: the file, its bytes, the kernels it is for, and its inputs by name with their sizes.

    sqnr  decibels between the plate and the module in one call: infinite for equal bits
    """

    path: Path
    nbytes: int
    kernels: str
    inputs: dict[str, tuple[int, ...]]
    sqnr: float


def export_plate(
    model: CompressedModule, path: str | Path, *, sizes: Mapping[str, int] | None = None, kernels: str | None = None
) -> Plated:
    """Write `model` to the file `path`, which `aquatint.Plate(path)` runs.

    sizes    of free dimensions by their names in the program ("s0"), or "batch"; others are as when it was captured
    kernels  whom it is for: "avx2", "avx512", "avx512-vnni" or "avx512-amx"; by default the best that this machine runs

    What is written is opened and called before it takes its place. Raises ExportError for unknown sizes or kernels, for a
    student with branches by step, and with a line for each step that neither a compiled kernel nor numpy serves; then what was
    there stays.
    """
    program, path = model.program, Path(path)
    if path.is_dir():
        raise ExportError(f"{path} is a folder: a plate is a file")
    if steps_of(program.graph):
        raise ExportError(f"{program.name} has a branch for each of its steps: a plate holds one")
    chosen = _kernel_set(kernels)
    specs = program.interface.inputs
    inputs = _inputs(specs, sizes or {})
    alone = model.on(Cpu(dataclasses.replace(chosen, alone=True)))
    writer = _Writer()
    parts = _parts(alone, inputs, writer)
    if writer.refused:
        raise ExportError("\n  ".join([f"{program.name} can't be written as a plate:", *dict.fromkeys(writer.refused)]))
    names = _short([s.path for s in specs])
    described = [
        {"name": n, "dtype": s.dtype, "shape": list(t.shape), "vector": s.vector}
        for n, s, t in zip(names, specs, inputs, strict=True)
    ]
    data = {
        "name": program.name,
        "kernels": chosen.name,
        "config": dict(program.config),
        "sampler": None if program.sampler is None else dict(program.sampler),
        "inputs": described,
        "outputs": [name.removeprefix("out_") for name in interface_names(program)[1]],
        "memory": writer.rooms,
        "parts": parts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        made = Path(work) / path.name
        nbytes = file.write(made, data, writer.blocks(), writer.size)
        sqnr = _agreement(made, inputs, alone.run(inputs))
        os.replace(made, path)
    return Plated(path, nbytes, chosen.name, {n: tuple(t.shape) for n, t in zip(names, inputs, strict=True)}, sqnr)


def _kernel_set(name: str | None) -> KernelSet:
    found = best_kernel_set() if name is None else kernel_set(name) if name in KERNEL_SETS else None
    if found is None:
        here = [n for n in KERNEL_SETS if kernel_set(n)]
        raise ExportError(f"there are no kernels {name or ''} here; this machine runs {', '.join(here) or 'none: build them'}")
    return found


def _inputs(specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> list[Tensor]:
    """A call with these sizes: noise, and ones as whole numbers. Raises ExportError for a size that is not free, or below 1."""
    free = {str(s): e for spec in specs for s, e in zip(spec.shape, spec.example, strict=True) if isinstance(s, str)}
    batch = specs[0].shape[0]
    sizes = {str(batch) if name == "batch" else name: size for name, size in sizes.items()}
    wrong = [f"{name}={size}" for name, size in sizes.items() if name not in free or size < 1]
    if wrong:
        shown = "; ".join(f"{spec.path} [{', '.join(map(str, spec.shape))}]" for spec in specs)
        raise ExportError(f"{', '.join(wrong)}: the sizes that are free are named in {shown}")
    chosen, random = {**free, **sizes}, torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for spec in specs:
        shape, dtype = [chosen[s] if isinstance(s, str) else s for s in spec.shape], getattr(torch, spec.dtype)
        found.append(
            torch.randn(shape, generator=random).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
        )
    return found


def _agreement(path: Path, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The plate called, in decibels of its module's results. Raises ExportError where it can't be, or is another thing."""
    try:
        found = [torch.from_numpy(v) for v in Plate(path)(*(t.numpy() for t in inputs)).values()]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path.name} can't be a plate: numpy does not serve {error}") from error
    pairs = [(f.double(), e.double()) for f, e in zip(found, expected, strict=True)]
    noise, signal = sum(float((f - e).square().sum()) for f, e in pairs), sum(float(e.square().sum()) for _, e in pairs)
    sqnr = 10 * math.log10(signal / noise) if noise and signal else math.inf
    if math.isnan(noise) or sqnr < LEAST:
        raise ExportError(f"{path.name} gives other results than its module ({sqnr:.1f} dB): report this, and what model it is")
    return sqnr


def _short(paths: Sequence[str]) -> list[str]:
    """`added_cond_kwargs.time_ids` is called `time_ids`, where no other input is."""
    last = [path.rpartition(".")[2] for path in paths]
    return [own if last.count(own) == 1 else path for own, path in zip(last, paths, strict=True)]


def _parts(module: CompressedModule, inputs: list[Tensor], writer: _Writer) -> list[dict[str, Any]]:
    executions = module.parts(inputs)
    found: list[dict[str, Any]] = []
    for place, (execution, given) in enumerate(executions):
        replay = replay_in_place(execution, given)
        if replay is None:
            raise ExportError(f"{module.program.name} can't be written as a plate: the numbers in its inputs decide what runs")
        results = iter(range(len(given)))
        own = [next((i for i, t in enumerate(inputs) if t is g), None) for g in given]
        sources = [("result", next(results)) if i is None else ("input", i) for i in own]
        writer.enter(replay)
        found.append(
            {
                "sources": sources,
                "once": place < len(executions) - 1,
                "inputs": [writer.view(replay.value(n)) for n in execution.inputs],
                "steps": [step for node, run in replay.runs for step in writer.steps(node, run)],
                "results": [writer.view(replay.value(n)) for n in execution.results],
            }
        )
    return found


class _Writer:
    """Turns calls and tensors into data, and collects the constants that they read.

    rooms    bytes of each part's memory;  size  bytes of the constants so far;  refused  what can't be written, a line each
    """

    def __init__(self) -> None:
        self.rooms: list[int] = []
        self.size, self.refused = 0, list[str]()
        self._constants: dict[int, tuple[Tensor, int]] = {}
        self._copies: dict[int, tuple[Tensor, int]] = {}
        self._replay: Replay | None = None

    def enter(self, replay: Replay) -> None:
        """Begin a part; what is written from now on lies in its memory or among the constants."""
        self._replay, self._copies = replay, {}
        self.rooms.append(_aligned(len(replay.memory)))

    def blocks(self) -> Iterator[np.ndarray]:
        """The constants, each filled up to the next multiple of the alignment."""
        for tensor, _ in self._constants.values():
            block = tensor.numpy()
            yield block
            yield np.zeros(_aligned(len(block)) - len(block), np.uint8)

    def steps(self, node: fx.Node, run: Any) -> list[dict[str, Any]]:
        """What a run does: a kernel's call with the copies around it, or one operator on arrays."""
        copies = [r for r in (*run.before, *run.after) if isinstance(r, Copy)] if isinstance(run, Bound) else []
        if isinstance(run, Bound) and len(copies) == len(run.before) + len(run.after):
            before, after = copies[: len(run.before)], copies[len(run.before) :]
            held = dict(map(_memory_of, _tensors_within((run.held, vars(run.call)))))
            for tensor in (*(c.target for c in before), *(c.source for c in after)):
                self._make_room(*_memory_of(tensor))
            call = {"kernel": run.function.__name__, "call": stored(run.call, lambda address: self._place(address, held))}
            if run.function.__name__ not in KERNELS:
                self.refused.append(f"{node.name}: {run.function.__name__} is for edits")
            return [*map(self._copy, before), call, *map(self._copy, after)]
        name, replay = name_of(node.target) or "", self._replay
        assert replay is not None
        if name not in OPERATORS:
            self.refused.append(f"{node.name}: no kernel and nothing in numpy serves this {name}")
            return []
        args, options = fx.map_arg((node.args, node.kwargs), replay.value)  # type: ignore[misc]
        return [self._operator(name, args, options, replay.value(node))]  # type: ignore[arg-type]

    def view(self, tensor: Tensor) -> dict[str, Any]:
        """A tensor as an array: where it begins, its sizes, the bytes from one to the next, and its dtype."""
        start, memory = _memory_of(tensor)
        width, dtype = tensor.element_size(), str(tensor.dtype).removeprefix("torch.")
        return {
            "at": self._place(tensor.data_ptr(), {start: memory}),
            "shape": list(tensor.shape),
            "strides": [stride * width for stride in tensor.stride()],
            "dtype": "uint16" if dtype == "bfloat16" else dtype,
        }

    def _copy(self, copy: Copy) -> dict[str, Any]:
        narrow = copy.target.dtype == torch.bfloat16, copy.source.dtype == torch.bfloat16
        kinds = {(True, False): "copy to bfloat16", (False, True): "copy from bfloat16"}
        return self._operator(kinds.get(narrow, "copy"), (copy.source,), {}, copy.target)

    def _operator(self, name: str, args: Sequence[Any], options: Mapping[str, Any], result: Any) -> dict[str, Any]:
        results = [result] if isinstance(result, Tensor) else list(result)
        tensors = [t for t in (*args, *options.values(), *results) if isinstance(t, Tensor)]
        if "bfloat16" not in name and any(t.dtype == torch.bfloat16 for t in tensors):
            self.refused.append(f"{name} computes in bfloat16, which numpy has not")
        named = {option: self._value(value) for option, value in options.items()}
        return {"operator": name, "args": self._value(args), "options": named, "results": [self.view(t) for t in results]}

    def _value(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        if isinstance(value, Tensor):
            return self.view(value)
        return value if isinstance(value, (bool, int, float, str)) else None  # what is left are dtypes, which results have

    def _place(self, address: int, held: Mapping[int, Tensor]) -> Place:
        assert self._replay is not None
        memory = self._replay.memory
        if memory.data_ptr() <= address < memory.data_ptr() + len(memory):
            return [len(self.rooms), address - memory.data_ptr()]
        start, tensor = next((s, t) for s, t in held.items() if s <= address < s + len(t))
        if start in self._copies:
            return [len(self.rooms), self._copies[start][1] + address - start]
        if start not in self._constants:
            self._constants[start] = tensor, self.size
            self.size += _aligned(len(tensor))
        return [CONSTANTS, self._constants[start][1] + address - start]

    def _make_room(self, start: int, copy: Tensor) -> None:
        """For a copy that a call makes of what it reads or writes: behind the part's own memory."""
        assert self._replay is not None
        if start != _memory_of(self._replay.memory)[0] and start not in self._copies:
            self._copies[start] = copy, self.rooms[-1]
            self.rooms[-1] += _aligned(len(copy))


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

"""A compressed model as a plate: one file that runs it at fixed sizes on a CPU, with numpy and without torch.

What a replay calls again and again is written down: each kernel's call with its addresses as places in a memory, and what they
read and no run writes. `aquatint.Plate` maps the file, puts the addresses back and calls.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aquatint.compiler.by_step import steps_of
from aquatint.compiler.errors import ExportError
from aquatint.compiler.interface import InputSpec, short_names
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.onnx_graph import interface_names
from aquatint.plate_writer import PlateWriter
from aquatint.runtime.cpu.native import KERNEL_SETS, KernelSet, best_kernel_set, kernel_set
from aquatint.runtime.cpu.target import Cpu
from aquatint.runtime.plate import file
from aquatint.runtime.plate.plate import Plate

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
    student with branches by step, and with a line for each step that neither a compiled kernel nor numpy serves, InputError for
    sizes that the model can't run on; then what was there stays.
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
    expected = alone.run(inputs)  # before all: it says which sizes can't be
    writer = PlateWriter(program.name)
    parts = writer.parts(alone.parts(inputs), inputs)
    names = short_names([s.path for s in specs])
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
        sqnr = _agreement(made, inputs, expected)
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
    free = {str(s): 0 for spec in specs for s in spec.shape if isinstance(s, str)}
    free |= {str(s): e for spec in specs for s, e in zip(spec.shape, spec.example, strict=False) if isinstance(s, str)}
    batch = next((spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)), None)
    named = {str(batch) if name == "batch" and batch else name: size for name, size in sizes.items()}
    wrong = [f"{name}={size}" for name, size in named.items() if name not in free or size < 1]
    wrong += [f"{name} is not given" for name, size in (free | named).items() if not size]  # artifacts of old had no example
    if wrong:
        shown = "; ".join(f"{spec.path} [{', '.join(map(str, spec.shape))}]" for spec in specs)
        raise ExportError(f"{', '.join(wrong)}: the sizes that are free are named in {shown}")
    sizes = {**free, **named}
    return [_example(spec, [sizes[s] if isinstance(s, str) else s for s in spec.shape]) for spec in specs]


def _example(spec: InputSpec, shape: Sequence[int]) -> Tensor:
    """Numbers to call with: a time, or a label, is one that every model knows."""
    dtype = getattr(torch, spec.dtype)
    if spec.vector or not dtype.is_floating_point:
        return torch.ones(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _agreement(path: Path, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The plate called, in decibels of its module's results. Raises ExportError where it is another thing."""
    found = Plate(path)(*(t.numpy() for t in inputs))
    pairs = [(torch.from_numpy(f).double(), e.double()) for f, e in zip(found.values(), expected, strict=True)]
    if all(torch.equal(f.nan_to_num(), e.nan_to_num()) and torch.equal(f.isnan(), e.isnan()) for f, e in pairs):
        return math.inf
    noise, signal = sum(float((f - e).square().sum()) for f, e in pairs), sum(float(e.square().sum()) for _, e in pairs)
    sqnr = 10 * math.log10(signal / noise) if noise * signal > 0 else -math.inf
    if sqnr < LEAST:
        raise ExportError(f"{path.name} gives other results than its module ({sqnr:.1f} dB): report this, and what model it is")
    return sqnr

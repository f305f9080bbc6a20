"""A speed pack: the low-rank branches that a distillation has trained, and the sampler that they were trained for.

One safetensors file of a few megabytes over one base of 4-bit weights: packs of 4, 2 or 1 steps change places without the base.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aquatint.compiler.by_step import steps_of, with_steps, without_steps
from aquatint.compiler.errors import ArtifactError
from aquatint.compiler.program import BRANCH, Program, narrowest
from aquatint.compiler.weights import Weights


def branches(program: Program) -> list[str]:
    """The names of all low-rank branches."""
    return [name for name in program.weights if name.endswith(BRANCH)]


def base_digest(program: Program) -> str:
    """SHA-256 of all that a pack leaves as it is: names, shapes and bytes of the other weights."""
    found = hashlib.sha256()
    for name in sorted(set(program.weights) - set(branches(program))):
        weight = narrowest(program.weights[name]).contiguous()
        found.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        found.update(weight.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_pack(program: Program, path: str | Path) -> None:
    """Write the branches and the sampler of `program` to the file `path`. Raises ArtifactError."""
    names, path = branches(program), Path(path)
    if not names or program.sampler is None:
        raise ArtifactError(f"{program.name} has no {'branch' if program.sampler else 'sampler'}: a speed pack holds both")
    if program.sampler.get("tables"):
        raise ArtifactError(f"{program.name} has tables for its own times, so it is over no base: distil it without tables")
    about = {"aquatint": "speed pack", "base": base_digest(program), "sampler": json.dumps(dict(program.sampler))}
    if (steps := steps_of(program.graph)) is not None:
        about["stamps"] = json.dumps(steps.stamps)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: narrowest(program.weights[name]).contiguous() for name in names}, unfinished, about)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise ArtifactError(f"the speed pack can't be written to {path}: {error}") from error


def with_pack(program: Program, path: str | Path) -> Program:
    """`program` with the branches and the sampler of a pack that was made over the same base. Raises ArtifactError."""
    about, tensors = _read(Path(path))
    if about["base"] != base_digest(program):
        raise ArtifactError(f"{path} is a speed pack over another base than this {program.name}: its 4-bit weights differ")
    if missing := set(branches(program)) ^ set(tensors):
        raise ArtifactError(f"{path} does not fit {program.name}: {', '.join(sorted(missing)[:3])} is in one of them alone")
    program = without_steps(program)
    program = with_steps(program, json.loads(about["stamps"])) if "stamps" in about else program
    weights = Weights(program.weights)
    for name, tensor in tensors.items():
        weights[name] = tensor.to(program.weights[name].dtype)
    return replace(program.copy(), weights=weights, sampler=json.loads(about["sampler"]))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as found:
            about = found.metadata() or {}
            tensors = {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} is no speed pack: {error}") from error
    if about.get("aquatint") != "speed pack":
        raise ArtifactError(f"{path} is a safetensors file, but no speed pack")
    return about, tensors

"""The artifact: a folder with manifest.json, graph.json and weights.safetensors. Nothing in it is ever executed.

It is written beside its place and renamed, so that a crash leaves what was there whole.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aquatint.compiler.errors import AquatintError, ArtifactError
from aquatint.compiler.interface import InputSpec, Interface, Parameter
from aquatint.compiler.mapped import mapped
from aquatint.compiler.page import page
from aquatint.compiler.powers import Scaled
from aquatint.compiler.program import Program, Range, Site, smallest
from aquatint.compiler.text import GraphBuilder, plain
from aquatint.compiler.verify import verify
from aquatint.compiler.weights import Narrow, Stored, Weights
from aquatint.runtime import ops

FORMAT = "aquatint"
VERSION = 3
READS = (1, 2, VERSION)  # 1: without EXPONENTS; up to 2: a row's scale of OTHER_SINCE_2 in four bytes
OTHER_SINCE_2 = "int4-g64-whole"
EXPONENTS = ":exponents"  # behind the name of a weight in bytes
MANIFEST, GRAPH, WEIGHTS, PAGE = "manifest.json", "graph.json", "weights.safetensors", "report.html"


@dataclass(frozen=True)
class Artifact:
    """What an artifact holds."""

    program: Program
    recipe: Mapping[str, Any]
    report: Mapping[str, Any]


def save(path: str | Path, program: Program, recipe: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write the artifact folder `path`, over an older artifact if one is there.

    Weights that fit a 16-bit float exactly are stored as such, and branches that fit into 8 bits with a power of two; the
    manifest says what they are computed in.
    Raises ArtifactError when `path` is something else than an artifact.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file():
        raise ArtifactError(f"{path} is there and is no artifact: it stays as it is; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        stored = _stored(program.weights)
        save_file(stored, work / WEIGHTS)
        computed = {n: _dtype_name(w) for n, w in program.weights.items() if w.dtype != stored[n].dtype}
        graph = json.dumps(_graph(program), indent=1)
        (work / GRAPH).write_text(graph)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "name": program.name,
            "files": {GRAPH: _digest(work / GRAPH), WEIGHTS: _digest(work / WEIGHTS)},
            "computed": computed,
            "config": dict(program.config),
            "sampler": None if program.sampler is None else dict(program.sampler),
            "recipe": dict(recipe),
            "log": list(program.log),
            "ranges": {site: [list(ends) for ends in both] for site, both in program.ranges.items()},
            "sites": [dataclasses.asdict(site) for site in program.sites],
            "report": dict(report),
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        (work / PAGE).write_text(page(report))
        work.chmod(0o755)
        _swap(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, path: Path) -> None:
    """Put `work` at `path`, at once: on Linux two folders can change places in one step."""
    if not path.exists():
        os.rename(work, path)
        return
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    at_cwd, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange is None or exchange(at_cwd, os.fsencode(work), at_cwd, os.fsencode(path), both) != 0:
        old = work.with_name(work.name + ".old")
        os.rename(path, old)
        os.rename(work, path)
        shutil.rmtree(old, ignore_errors=True)


def load(path: str | Path) -> Artifact:
    """Read and check the artifact at `path`. Raises ArtifactError naming the file and the fault."""
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"{path} is no artifact: there is no such folder")
    manifest = _read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path / MANIFEST} is not of an aquatint artifact")
    if manifest.get("version") not in READS:
        raise ArtifactError(
            f"{path / MANIFEST} has version {manifest.get('version')!r}; this aquatint reads version {VERSION}: "
            "update aquatint, or compile the model again"
        )
    try:
        for name, digest in manifest["files"].items():
            if not (path / name).is_file():
                raise ArtifactError(f"{path / name} is missing")
            if name in (GRAPH, WEIGHTS) and _digest(path / name) != digest:
                raise ArtifactError(f"{path / name} is damaged: it is not the file that was saved with {MANIFEST}")
        if manifest["version"] < VERSION and OTHER_SINCE_2 in (path / GRAPH).read_text():
            raise ArtifactError(
                f"{path} has weights in {OTHER_SINCE_2} as version {manifest['version']} stored them: compile the model again"
            )
        stored = _read_weights(path / WEIGHTS)
        computed = {n: getattr(torch, dtype) for n, dtype in manifest["computed"].items()}
        weights = Weights(_read(stored, computed), mapped(path / WEIGHTS, list(stored.values())))
        program = _program(path / GRAPH, manifest, weights)
        return Artifact(program, manifest["recipe"], manifest["report"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{path / MANIFEST} does not hold what version {VERSION} holds: {error!r}") from error


def _stored(weights: Weights) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        found = smallest(name, weight)
        if isinstance(found, Scaled):
            stored |= {name: found.codes.contiguous(), name + EXPONENTS: found.exponents.contiguous()}
        else:
            stored[name] = found.contiguous()
    return stored


def _read(stored: Mapping[str, Tensor], computed: Mapping[str, torch.dtype]) -> dict[str, Stored]:
    """By name: what is stored, in the dtype that it is computed in."""
    read: dict[str, Stored] = {}
    for name, tensor in stored.items():
        if name + EXPONENTS in stored:
            read[name] = Scaled(tensor, stored[name + EXPONENTS], computed[name])
        elif not name.endswith(EXPONENTS):
            read[name] = Narrow(tensor, computed[name]) if name in computed else tensor
    return read


def _dtype_name(weight: Tensor) -> str:
    return str(weight.dtype).removeprefix("torch.")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _graph(program: Program) -> dict[str, Any]:
    nodes = [
        {
            "name": n.name,
            "op": ops.name_of(n.target),
            "args": plain(list(n.args)),
            "kwargs": {k: plain(v) for k, v in n.kwargs.items()},
        }
        for n in program.graph.nodes
        if n.op == "call_function"
    ]
    interface = dataclasses.asdict(program.interface)
    inputs = [n.name for n in program.graph.nodes if n.op == "placeholder"]
    return {"interface": interface, "inputs": inputs, "nodes": nodes, "results": plain(program.graph.output_node().args[0])}


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing")
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error


def _program(path: Path, manifest: Mapping[str, Any], weights: Weights) -> Program:
    data = _read_json(path)
    builder = GraphBuilder()
    try:
        for name in data["inputs"]:
            builder.placeholder(name)
        for row in data["nodes"]:
            builder.call(row["name"], row["op"], row["args"], row["kwargs"])
        builder.output(data["results"])
        program = Program(
            manifest["name"], builder.graph, weights, _interface(data["interface"]),
            tuple(Site(**{**row, "kernel": tuple(row["kernel"])}) for row in manifest["sites"]),
            manifest["config"], manifest["sampler"], tuple(manifest["log"]), _ranges(manifest.get("ranges", {})),
        )  # fmt: skip
        verify(program)
    except KeyError as error:
        raise ArtifactError(f"{path} names {error}, which is no operator, node or field of version {VERSION}") from error
    except ArtifactError:
        raise
    except (AquatintError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"{path} holds no valid program: {error}") from error
    return program


def _ranges(data: Mapping[str, Any]) -> dict[str, tuple[Range, Range]]:
    return {site: (tuple(map(float, given)), tuple(map(float, result))) for site, (given, result) in data.items()}  # type: ignore[misc]


def _interface(data: Mapping[str, Any]) -> Interface:
    return Interface(
        tuple(Parameter(**row) for row in data["parameters"]),
        tuple(
            InputSpec(row["path"], row["dtype"], tuple(row["shape"]), row["vector"], tuple(row.get("example", ())))
            for row in data["inputs"]
        ),
        tuple((path, value) for path, value in data["constants"]),
        data["output"],
    )

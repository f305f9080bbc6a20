"""What the tests of ONNX files share: quick compression, sessions, and how near results are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor

import aquatint
from aquatint.compiler.module import CompressedModule
from aquatint.runtime import target_named
from tests.programs import with_exact_branch
from tests.zoo import build


def hasty(name: str) -> aquatint.Recipe:
    """A preset without its searches: what is tested is the file, not the quality."""
    recipe = aquatint.recipe_named(name)
    options = {"lowrank": {"alternations": 1}, "quantize": {"method": "rtn"}}
    return replace(recipe, passes=tuple(replace(p, **options.get(p.name, {})) for p in recipe.passes if p.name != "smooth"))


def compressed(name: str, recipe: str = "svdq-w4a8-r32", smooth: bool = False) -> CompressedModule:
    """A model of the zoo, on the reference target."""
    model, (args, kwargs) = build(name)
    chosen = aquatint.recipe_named(recipe) if smooth else hasty(recipe)
    return aquatint.optimize(model, chosen, calibrate=lambda m: m(*args, **kwargs), target="reference")


def session(path: Path, **config: str) -> ort.InferenceSession:
    """With all optimizations; `config` are onnxruntime's own entries, dots as double underscores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    for key, value in config.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs_of(model: CompressedModule, name: str, seed: int | None = None) -> list[Tensor]:
    """The zoo's call, with a seed with other noise; one time for the whole batch, as some files take it."""
    _, (args, kwargs) = build(name)
    inputs, _ = model.program.interface.flatten(args, kwargs)
    specs = model.program.interface.inputs
    random = torch.Generator().manual_seed(seed or 0)
    other = [torch.randn(t.shape, generator=random) if t.is_floating_point() and t.dim() > 2 else t for t in inputs]
    drawn = inputs if seed is None else other
    return [torch.full_like(t, t.flatten()[0].item()) if s.path == "timestep" else t for s, t in zip(specs, drawn, strict=True)]


def run(opened: ort.InferenceSession, inputs: list[Tensor]) -> list[Tensor]:
    feed = {
        spec.name: (value.flatten()[0] if not spec.shape else value).numpy()
        for spec, value in zip(opened.get_inputs(), inputs, strict=True)
    }
    return [torch.from_numpy(result) for result in opened.run(None, feed)]


def reference(model: CompressedModule, inputs: list[Tensor]) -> list[Tensor]:
    """By the operators' meaning, without a rounding of the branch's input, which a file does in its own way."""
    return with_exact_branch(model).on(target_named("reference")).run(inputs)


def decibel(results: list[Tensor], expected: list[Tensor]) -> float:
    """The signal-to-noise ratio of the worst of several results."""
    ratios: list[Any] = [e.float().norm() / (r.float() - e.float()).norm() for r, e in zip(results, expected, strict=True)]
    return min(20 * torch.log10(ratio).item() for ratio in ratios)

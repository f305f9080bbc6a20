"""Compress the two models of this repository four ways, and show size, speed and images beside the original's."""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from aquatint.compiler.recipe import Recipe
    from aquatint.quality import FeatureSpace

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
KEPT = "svdq-w4a8-r32-whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="default: %(default)s")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder with fashion-dit and fashion-unet")
    parser.add_argument("--count", type=int, default=96, help="images for the figures (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps (default: %(default)s)")


@dataclass(frozen=True)
class Subject:
    """One shipped model: how it is sampled."""

    name: str
    folder: str
    guidance: float
    classes: int | None


SUBJECTS = (
    Subject("class-conditional DiT", "fashion-dit", 1.5, 10),
    Subject("U-Net", "fashion-unet", 1.0, None),
)


@dataclass(frozen=True)
class Result:
    """What one variant of a model came out as."""

    variant: str
    model: nn.Module
    megabytes: float
    compile_seconds: float | None
    images: Tensor


def naive_w4a4() -> Recipe:
    """What anyone would try first: everything rounded to 4 bits, no smoothing, no branch, no correction."""
    from aquatint.compiler.recipe import Recipe, Treatment
    from aquatint.passes.absorb import Absorb
    from aquatint.passes.canonicalize import Canonicalize
    from aquatint.passes.epilogue import Epilogue
    from aquatint.passes.fuse import Fuse
    from aquatint.passes.quantize import Quantize
    from aquatint.passes.recipes import default_rules

    rules = default_rules(Treatment("int4-g64", "int4-g64"), Treatment("int4-g64"))
    return Recipe("naive-w4a4", (Canonicalize(), Quantize("rtn"), Fuse(), Epilogue(), Absorb()), rules)


def run(options: argparse.Namespace) -> None:
    from aquatint.commands.terminal import console
    from aquatint.compiler.errors import InputError
    from aquatint.compiler.numerics import reproducible
    from aquatint.quality import FeatureSpace

    reproducible()
    classifier = options.models / "fashion-classifier" / "classifier.safetensors"
    if not classifier.is_file():
        raise InputError(f"{classifier} is not there: the demo's models are in the repository's examples/models")
    options.output.mkdir(parents=True, exist_ok=True)
    space = FeatureSpace.load(classifier)
    began = time.perf_counter()
    for subject in SUBJECTS:
        _show(subject, options, space)
    console.print(f"[dim]{time.perf_counter() - began:.0f} s in all[/]")


def _show(subject: Subject, options: argparse.Namespace, space: FeatureSpace) -> None:
    from rich.table import Table as Terminal

    from aquatint.checkpoint import open_checkpoint
    from aquatint.commands.bench import interleaved, processor
    from aquatint.commands.terminal import console
    from aquatint.compiler.page import Picture, Table, page

    checkpoint = open_checkpoint(options.models / subject.folder)
    results = _results(subject, checkpoint.model, checkpoint.scheduler, options)
    times = interleaved({r.variant: _step(subject, r.model) for r in results}, 15)
    rows = [_row(r, results[0], statistics.median(times[r.variant]), space) for r in results]
    title = f"{subject.name}: {options.count} images, {options.steps} steps, same seeds"
    table = Terminal(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"ms/step: batch {TIMED_BATCH}, median of 15, interleaved, {processor()}", style="dim")
    console.print("distance: mean absolute pixel difference to fp32, of 255; Fréchet: to real images", style="dim")
    pictures = [Picture(r.variant, _png(r.images)) for r in results]
    _save_sheet(results, options.output / f"{subject.folder}.png")
    small: Any = next(r.model for r in results if r.variant == KEPT)
    html = options.output / f"{subject.folder}.html"
    html.write_text(page(small.report, pictures, [Table(title, HEADER, rows)]))
    path = options.output / f"{subject.folder}.aq"
    small.save(path)
    console.print(f"{options.output / subject.folder}.png, {html}, {path}", markup=False)
    console.print(_reloaded(subject, path, small, checkpoint.scheduler, options) + "\n")


HEADER = ("variant", "MB", "smaller", "compile s", "ms/step", "PSNR dB", "distance", "Fréchet")
TIMED_BATCH = 4


def _results(subject: Subject, model: nn.Module, scheduler: Any, options: argparse.Namespace) -> list[Result]:
    from aquatint.commands.terminal import progress_bar
    from aquatint.compiler.module import CompressedModule
    from aquatint.compression import optimize
    from aquatint.passes.recipes import recipe_named

    megabytes = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    draw = _sampler(subject, scheduler, options)
    results = [Result("fp32", model, megabytes, None, draw(model, options.count))]
    for recipe in (naive_w4a4(), recipe_named("svdq-w4a4-r32"), recipe_named(KEPT)):
        began = time.perf_counter()
        with progress_bar() as progress:
            small = optimize(model, recipe, lambda m: draw(m, 16, 1_000_000), sampler=scheduler, progress=progress)
        assert isinstance(small, CompressedModule)
        seconds = time.perf_counter() - began
        results.append(Result(recipe.name, small, small.nbytes() / 1e6, seconds, draw(small, options.count)))
    return results


def _sampler(subject: Subject, scheduler: Any, options: argparse.Namespace) -> Callable[..., Tensor]:
    """draw(model, count, seed): images in parts of 32."""
    import torch

    from aquatint.sampling import SamplingPlan, noise, sample

    plan = SamplingPlan(options.steps, subject.guidance)

    def draw(model: nn.Module, count: int, seed: int = 0) -> Tensor:
        start = noise((1, 28, 28), count, seed)
        labels = torch.arange(count) % subject.classes if subject.classes else None
        parts = range(0, count, 32)
        cut = [(start[i : i + 32], None if labels is None else labels[i : i + 32]) for i in parts]
        return torch.cat([sample(model, scheduler, s, plan, tags, subject.classes) for s, tags in cut])

    return draw


def _step(subject: Subject, model: nn.Module) -> Callable[[], Any]:
    import torch

    from aquatint.sampling import noise

    start, times = noise((1, 28, 28), TIMED_BATCH, 0), torch.full((TIMED_BATCH,), 500)
    labels = {"class_labels": torch.arange(TIMED_BATCH)} if subject.classes else {}
    return lambda: model(start, timestep=times, **labels)


def _row(result: Result, original: Result, seconds: float, space: FeatureSpace) -> list[str]:
    from aquatint.quality import pixel_distance, psnr

    ratio = f"{original.megabytes / result.megabytes:.2f}x"
    compiled = "" if result.compile_seconds is None else f"{result.compile_seconds:.0f}"
    shared = [result.variant, f"{result.megabytes:.2f}", ratio, compiled, f"{seconds * 1e3:.1f}"]
    distance = f"{space.distance(result.images):.2f}"
    if result is original:
        return [*shared, "", "", distance]
    close = psnr(result.images, original.images).mean().item()
    return [*shared, f"{close:.1f}", f"{pixel_distance(result.images, original.images).mean().item():.2f}", distance]


def _png(images: Tensor) -> bytes:
    from aquatint.sampling import grid

    stream = io.BytesIO()
    grid(images[:20], columns=5).save(stream, format="PNG")
    return stream.getvalue()


def _save_sheet(results: list[Result], path: Path) -> None:
    """One row of images a variant, under its name."""
    from matplotlib.figure import Figure

    from aquatint.sampling import grid

    figure = Figure(figsize=(9, 0.95 * len(results) + 0.1), layout="constrained", dpi=150)
    for axes, result in zip(figure.subplots(len(results), 1), results, strict=True):
        axes.imshow(grid(result.images[:10], columns=10, enlarge=4))
        axes.set_ylabel(result.variant, rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(path)


def _reloaded(subject: Subject, path: Path, small: nn.Module, scheduler: Any, options: argparse.Namespace) -> str:
    """Draw the same images from the artifact in a fresh process, and compare them bit by bit."""
    import torch
    from safetensors.torch import load_file

    from aquatint.compiler.errors import ArtifactError

    fresh = path.with_suffix(".safetensors")
    command = [sys.executable, "-m", "aquatint", "run", path, "-o", fresh, "--count", "16", "--steps", options.steps]
    command += ["--guidance", subject.guidance]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    here = _sampler(subject, scheduler, options)(small, 16)
    if not torch.equal(load_file(fresh)["images"], here):
        raise ArtifactError(f"{path} draws other images in a fresh process")
    return "reloaded in a fresh process: bit-identical images"

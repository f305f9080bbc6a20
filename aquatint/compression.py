"""The way through: from the user's model or pipeline to a compressed module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aquatint.calibrate import Recorder, default_calibration, denoiser_of, pipeline_calibration
from aquatint.compiler import artifact
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.costs import kept_where_slower, site_costs
from aquatint.compiler.errors import ArtifactError, CalibrationError, InputError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.numerics import reproducible
from aquatint.compiler.pipeline import Context, Progress, run_pass, run_recipe
from aquatint.compiler.plan import decide
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Recipe
from aquatint.compiler.report import assemble, with_costs
from aquatint.compiler.statistics import Calibration
from aquatint.compiler.verify import shapes
from aquatint.passes.recipes import DEFAULT, recipe_named
from aquatint.runtime import target_named
from aquatint.sampling import check_times


def silent(what: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def optimize(
    model: Any,
    recipe: str | Recipe = DEFAULT,
    calibrate: Callable[[Any], object] | None = None,
    *,
    sampler: Any = None,
    target: str = "cpu",
    calls: int = 16,
    seed: int = 0,
    fastest: bool = False,
    progress: Progress = silent,
) -> Any:
    """Compress `model`; the result is called like it.

    model      an nn.Module, what `distill` returned, or a whole diffusers pipeline: its denoiser is compressed and replaced,
               and the pipeline is returned
    recipe     a preset's name ("svdq-w4a8-r32-whole", "svdq-w4a8-r32", "svdq-w4a4-r32", "nvfp4-r32", "w4a16", "w8a8", "w8a16"),
               or a Recipe
    calibrate  called with `model`; whatever it does with it shows the inputs to expect. Without it, a pipeline is run on
               a few prompts or labels, and a diffusers model is sampled from noise over all time steps of `sampler`
    sampler    a diffusers scheduler, for calibration without `calibrate`; its configuration is kept in the artifact
    calls      how many calls of the model to learn from, spread evenly over all that calibration makes
    seed       of everything random: the same seed gives the same bytes
    fastest    time every compressed site beside what it was, on this machine, and leave those as they are that became slower;
               the report then has the times, and the bytes depend on the machine
    progress   called as (what, done, of how many)

    Raises CaptureError, CalibrationError, RecipeError, PassError; the model is never changed.
    """
    reproducible()
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    if isinstance(model, nn.Module):
        calibrate = calibrate or default_calibration(model, sampler, seed)
        return _compress(model, model, chosen, calibrate, sampler, target, calls, seed, fastest, progress)
    name, denoiser = denoiser_of(model)
    calibrate = calibrate or pipeline_calibration(model, seed)
    sampler = getattr(model, "scheduler", sampler)
    small = _compress(denoiser, model, chosen, calibrate, sampler, target, calls, seed, fastest, progress)
    setattr(model, name, small)
    return model


def _compress(
    model: nn.Module, caller: Any, recipe: Recipe, calibrate: Callable[[Any], object], sampler: Any, target: str,
    calls: int, seed: int, fastest: bool, progress: Progress,
) -> CompressedModule:  # fmt: skip
    progress("calibrate", 0, 1)
    with Recorder(model, calls) as recorder:
        calibrate(caller)
    if not recorder.examples:
        raise CalibrationError("calibration never called the model: `calibrate` must run it at least once")
    progress("capture", 0, 1)
    program = (
        model.program  # a student: its sampler is its own
        if isinstance(model, CompressedModule)
        else capture(model, recorder.examples[0], type(model).__name__, _sampler_config(sampler))
    )
    names = [spec.path for spec in program.interface.inputs]
    if "timestep" in names:
        asked = [program.interface.flatten(e.args, e.kwargs)[0][names.index("timestep")] for e in recorder.examples]
        check_times(program.sampler or {}, [time for times in asked for time in times.flatten()])
    calibration, place = calibration_for(program, recorder.examples, seed), target_named(target)
    final, report = compress(program, recipe, calibration, progress)
    if fastest:
        costs = site_costs(program, final, place.lower, calibration.calls[0], device=place.device)
        chosen = kept_where_slower(recipe, costs)
        if chosen != recipe:
            recipe = chosen
            final, report = compress(program, recipe, calibration, progress)
        report = with_costs(report, costs)
    return CompressedModule(final, place, recipe.to_json(), report)


def compress(
    program: Program, recipe: Recipe, calibration: Calibration, progress: Progress = silent
) -> tuple[Program, dict[str, Any]]:
    """`program` after all passes of `recipe`, and the report: what `optimize` does once a model is captured."""
    first, *rest = recipe.passes
    canonical, canonical_report = run_pass(program, first, Context({}, calibration, progress))
    ranks = {name: len(shape) for name, shape in shapes(canonical, list(calibration.calls[0])).items()}
    decisions = decide(canonical, recipe, ranks)
    context = Context(decisions, calibration, progress)
    final, reports = run_recipe(canonical, tuple(rest), context)
    return final, assemble(program, final, recipe.name, decisions, [canonical_report, *reports])


def calibration_for(program: Program, examples: list[Example], seed: int) -> Calibration:
    """The recorded calls as the program's inputs; calls of another form than the first are left out."""
    calls: list[tuple[Tensor, ...]] = []
    for example in examples:
        try:
            calls.append(tuple(program.interface.flatten(example.args, example.kwargs)[0]))
        except InputError:
            continue
    if not calls:
        raise CalibrationError("no recorded call fits the program that was captured from the first of them")
    return Calibration(tuple(calls), seed)


def load(path: str | Path, target: str = "cpu") -> CompressedModule:
    """The compressed module in the artifact folder `path`, on a target ("cpu", "cuda", "reference").

    Raises ArtifactError naming the file and the fault.
    """
    reproducible()
    found = artifact.load(path)
    try:
        return CompressedModule(found.program, target_named(target), found.recipe, found.report)
    except ValueError as error:
        raise ArtifactError(str(error)) from None


def _sampler_config(sampler: Any) -> dict[str, Any] | None:
    """What `sampling.scheduler_from` builds the same scheduler from; diffusers leaves the class out until it is saved."""
    if not hasattr(sampler, "config"):
        return None
    kinds = (bool, int, float, str, list, dict, type(None))
    plain = {k: v for k, v in sampler.config.items() if isinstance(v, kinds) and not k.startswith("_use_default")}
    return {**plain, "_class_name": type(sampler).__name__}

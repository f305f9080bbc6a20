"""The students that benchmarks.distillation judges: each is trained once, in a folder of build/distill, and read from there."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

import aquatint
from aquatint.checkpoint import Checkpoint
from aquatint.compiler.errors import DistillError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.training import Schooling
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.distillation_judge import FOLDER, conditions, drawn, drawn_by, even

ANY_STEPS = ("consistency", "lcm")  # what they learn is of no number of steps


def teachers_images(name: str, teacher: Checkpoint, options: argparse.Namespace, count: int = 2048) -> Tensor:
    """What methods that want data learn from."""
    file = FOLDER / name / "images.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        draws = compressed(name, teacher, options.teacher) or teacher.model
        images = drawn(name, draws, teacher.scheduler, SamplingPlan(50, seed=100_000), count)
        save_file({"images": images.half().contiguous()}, file)
    return load_file(file)["images"].float()


def evaluations(method: str, steps: int) -> int:
    """Of the model in an iteration for each image; with a pass backwards it is three."""
    return {"sfd": 3 * steps + max(4 * steps, 16), "recover": 4 * steps, "progressive": 5, "consistency": 4, "lcm": 5}.get(
        method, 1
    )


def student(name: str, teacher: Checkpoint, label: str, steps: int, options: argparse.Namespace) -> Any:
    """A trained student; the sentence that it was refused with; or None. `sfd*4` is trained four times as long."""
    method, _, longer = label.partition("*")
    if method in ANY_STEPS and steps != 1:
        return in_steps(student(name, teacher, label, 1, options), steps)
    data = None if method in ("sfd", "schedule") or options.kept else teachers_images(name, teacher, options)
    budget = options.iterations * int(longer or 1)
    place = FOLDER / name / f"{method}-{steps}-{budget}"
    iterations = round(budget * evaluations("sfd", 4) / evaluations(method, steps))
    schooling = Schooling(iterations, rate=options.rate, precision=options.precision)
    teaches = options.teacher if method == "sfd" else ""
    return kept(
        place,
        options,
        lambda: aquatint.distill(
            teacher.model, teacher.scheduler, method, steps, teacher=compressed(name, teacher, teaches), data=data,
            batch=options.batch, schooling=schooling, folder=place, device=options.device,
            watch=_shown(f"{name} {method} {steps}"),
        ),
        teaches,
    )  # fmt: skip


def in_steps(model: Any, steps: int) -> Any:
    """The same student, to draw in another number of steps."""
    if model is None or isinstance(model, str):
        return model
    program = replace(model.program.copy(), sampler={**model.program.sampler, "num_inference_steps": steps})
    return CompressedModule(program, model.target, model.recipe, model.report)


def branch_student(name: str, teacher: Checkpoint, small: Any, label: str, options: argparse.Namespace, by_step: bool) -> Any:
    """A quantized model of which the branch alone has learned; or the sentence that it was refused with."""
    place = FOLDER / name / f"{label}{'-by-step' * by_step}-4-{options.iterations}"
    schooling = Schooling(options.iterations, rate=options.branch_rate, precision=options.precision)
    return kept(
        place,
        options,
        lambda: aquatint.distill(
            small, teacher.scheduler, "sfd", 4, train="branch", by_step=by_step, batch=options.batch, schooling=schooling,
            folder=place, teacher=compressed(name, teacher, options.teacher) or teacher.model, device=options.device,
            watch=_shown(f"{name} {label}"),
        ),
        options.teacher,
    )  # fmt: skip


def recovered_student(name: str, teacher: Checkpoint, label: str, options: argparse.Namespace, by_step: bool) -> Any:
    """All weights learn for five sixths of the evaluations; they are quantized, and the branch takes back what that cost."""
    last = options.iterations // 6
    learned = student(name, teacher, "sfd", 4, argparse.Namespace(**{**vars(options), "iterations": options.iterations - last}))
    if learned is None or isinstance(learned, str):
        return learned
    own, plan = drawn_by(learned)
    iterations = round(last * evaluations("sfd", 4) / evaluations("recover", 4))
    place = FOLDER / name / f"recovered-{label}{'-by-step' * by_step}-4-{options.iterations}"
    return kept(
        place,
        options,
        lambda: aquatint.distill(
            quantized(name, learned, own, label, plan), teacher.scheduler, "recover", 4, train="branch", by_step=by_step,
            batch=options.batch, folder=place, device=options.device, watch=_shown(f"{name} recover {label}"),
            schooling=Schooling(iterations, rate=options.branch_rate / 5, precision=options.precision),
            teacher=quantized(name, learned, own, options.teacher, plan) if options.teacher else learned,
        ),
        options.teacher,
    )  # fmt: skip


def kept(place: Path, options: argparse.Namespace, make: Callable[[], Any], teaches: str) -> Any:
    """What `make` trains, from disk if it was trained before, which must have been with the same options."""
    settings = {name: getattr(options, name) for name in ("batch", "rate", "branch_rate", "precision")} | {"teacher": teaches}
    written = place / "settings.json"
    if options.kept and not place.is_dir():
        return None
    if written.is_file() and json.loads(written.read_text()) != settings:
        raise SystemExit(
            f"{place} was trained with {written.read_text()}, not with {json.dumps(settings)}: remove it to train anew"
        )
    place.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(settings))
    if (place / "refused.txt").is_file():
        return (place / "refused.txt").read_text()
    if not (place / "student.aq").is_dir():
        if options.kept:
            return None
        began = time.monotonic()
        try:
            made = make()
        except DistillError as error:
            (place / "refused.txt").write_text(str(error))
            return str(error)
        made.save(place / "student.aq")
        (place / "seconds").write_text(f"{time.monotonic() - began:.0f}")
    return aquatint.load(place / "student.aq")


def _shown(label: str) -> Callable[[int, float, float], None]:
    def watch(iteration: int, loss: float, left: float) -> None:
        if iteration % 25 == 0:
            print(f"{label}: iteration {iteration}, loss {loss:.4f}, {left:.0f} s left", flush=True)

    return watch


def compressed(name: str, teacher: Checkpoint, recipe: str) -> Any:
    """The teacher run by our kernels; None without a recipe."""
    return quantized(name, teacher.model, even(teacher.scheduler), recipe, SamplingPlan(16)) if recipe else None


def quantized(name: str, model: Any, sampler: Any, label: str, plan: SamplingPlan) -> Any:
    """Calibrated on what it will see: noise at the stamps of its plan."""
    labels = conditions(name, 8).get("class_labels")
    recipe = f"svdq-{label.lower()}-r32" if label.startswith("W4") else label
    return aquatint.optimize(
        model, recipe, sampler=sampler, calls=16, calibrate=lambda m: sample(m, sampler, noise((1, 28, 28), 8, 7), plan, labels)
    )

"""Step distillation of both shipped models: quality against steps for every method, in float32 and quantized.

    python -m benchmarks.distillation --models dit --methods sfd --steps 4   # trains what is missing, from where it stopped
    python -m benchmarks.distillation --quantized W4A8,W4A4 --page           # docs/distillation.md and a dated JSON

What was trained stays in build/distill, a folder a run, and is read from there. Every student gets the same batch and the same
number of evaluations of the model: `--iterations` are those of sfd at 4 steps. `apart` is the root mean square distance to the
teacher's own images in 50 steps from the same noise; Fréchet distances are over the same images. Methods that want images get
those that the teacher draws: no data set is needed.
"""

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
from aquatint.checkpoint import Checkpoint, open_checkpoint
from aquatint.commands.demo import MODELS
from aquatint.compiler.errors import DistillError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.training import Schooling
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.distillation_judge import FOLDER, Judge, aims, conditions, drawn, drawn_by, even
from benchmarks.distillation_page import COLUMNS, page, picture, tables
from benchmarks.records import todays_record, write_record

STEPS, PLAIN_STEPS = (1, 2, 4, 8), (1, 2, 4, 8, 16, 50)
METHODS = ("schedule", "sfd", "progressive", "consistency", "lcm")
ANY_STEPS = ("consistency", "lcm")  # what they learn is of no number of steps
TURNS = 9


def teachers_images(name: str, teacher: Checkpoint, count: int = 2048) -> Tensor:
    """What methods that want data learn from."""
    file = FOLDER / name / "images.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        images = drawn(name, teacher.model, teacher.scheduler, SamplingPlan(50, seed=100_000), count)
        save_file({"images": images.half().contiguous()}, file)
    return load_file(file)["images"].float()


def evaluations(method: str, steps: int) -> int:
    """Of the model in an iteration for each image; with a pass backwards it is three."""
    return {"sfd": 3 * steps + max(4 * steps, 16), "progressive": 5, "consistency": 4, "lcm": 5}.get(method, 1)


def student(name: str, teacher: Checkpoint, label: str, steps: int, options: argparse.Namespace) -> Any:
    """A trained student; the sentence that it was refused with; or None. `sfd*4` is trained four times as long."""
    method, _, longer = label.partition("*")
    if method in ANY_STEPS and steps != 1:
        return in_steps(student(name, teacher, label, 1, options), steps)
    data = None if method in ("sfd", "schedule") or options.kept else teachers_images(name, teacher)
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


def branch_student(
    name: str, teacher: Checkpoint, small: Any, label: str, steps: int, options: argparse.Namespace, by_step: bool
) -> Any:
    """A quantized model of which the branch alone has learned; or the sentence that it was refused with."""
    place = FOLDER / name / f"{label}{'-by-step' * by_step}-{steps}-{options.iterations}"
    schooling = Schooling(options.iterations, rate=options.branch_rate, precision=options.precision)
    return kept(
        place,
        options,
        lambda: aquatint.distill(
            small, teacher.scheduler, "sfd", steps, train="branch", by_step=by_step, batch=options.batch, schooling=schooling,
            folder=place, teacher=compressed(name, teacher, options.teacher) or teacher.model, device=options.device,
            watch=_shown(f"{name} {label} {steps}"),
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


def judged(judge: Judge, model: Any, label: str) -> dict[str, Any]:
    """A student's figures, drawn by the scheduler that it carries."""
    return {"refused": model} if isinstance(model, str) else judge.of(model, *drawn_by(model), label)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model: what is not trained yet is trained first."""
    teacher = open_checkpoint(MODELS / f"fashion-{name}")
    judge = Judge(name, teacher, options.images)
    plain = {"DDIM": even(teacher.scheduler), "DPM-Solver++ (2M)": even(teacher.scheduler, "DPMSolverMultistepScheduler")}
    found: dict[str, Any] = {
        label: {str(n): judge.of(teacher.model, sampler, SamplingPlan(n), label) for n in PLAIN_STEPS}
        for label, sampler in plain.items()
    }
    for method in options.methods.split(","):
        made = {n: student(name, teacher, method, int(n), options) for n in options.steps.split(",")}
        found[method] = {n: judged(judge, m, f"{method} {options.iterations}") for n, m in made.items() if m is not None}
        if method == "sfd":
            found["what sfd aims at"] = {n: aims(judge, m) for n, m in made.items() if hasattr(m, "program")}
    if options.quantized:
        found["quantized"] = quantized_rows(name, teacher, judge, options)
    found["about"] = (
        f"{options.iterations} iterations of {options.batch} images for sfd at 4 steps, in {options.precision}, its teacher in "
        f"{options.teacher or 'float32'}; judged on {options.images} images"
    )
    if options.page:
        found["speed"] = speed(name, teacher, options)
        picture(name, found, strips(name, teacher, options))
    return found


def strips(name: str, teacher: Checkpoint, options: argparse.Namespace) -> dict[str, Tensor]:
    """The first images of each way, from the same noise."""
    ddim, dpm = even(teacher.scheduler), even(teacher.scheduler, "DPMSolverMultistepScheduler")
    ways: dict[str, tuple[Any, Any, SamplingPlan]] = {"teacher, 50 steps": (teacher.model, ddim, SamplingPlan(50))}
    ways |= {f"{k}, 4 steps": (teacher.model, v, SamplingPlan(4)) for k, v in {"DDIM": ddim, "DPM-Solver++": dpm}.items()}
    for method in options.methods.split(","):
        for steps in map(int, options.steps.split(",")):
            made = student(name, teacher, method, steps, options) if method != "schedule" and steps <= 4 else ""
            if made is not None and not isinstance(made, str):
                ways[f"{method}, {steps} step{'s' * (steps > 1)}"] = made, *drawn_by(made)
    return {label: drawn(name, model, sampler, plan, COLUMNS) for label, (model, sampler, plan) in ways.items()}


def speed(name: str, teacher: Checkpoint, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one image, from noise on; the contenders take turns."""
    ddim = even(teacher.scheduler)
    ways: dict[str, tuple[Any, Any, SamplingPlan]] = {"torch fp32, 50 steps": (teacher.model, ddim, SamplingPlan(50))}
    learned = student(name, teacher, "sfd", 4, options)
    if learned is not None and not isinstance(learned, str):
        own = drawn_by(learned)
        ways["our fp32, 4 steps"] = learned, *own
        for label in ("W4A8", "W4A4"):
            ways[f"{label}, 4 steps"] = quantized(name, learned, own[0], label, own[1]), *own
    taken: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(TURNS + 2):
        for label, (model, sampler, plan) in ways.items():
            began = time.perf_counter()
            drawn(name, model, sampler, plan, 1)
            taken[label].append(1e3 * (time.perf_counter() - began))
    counted = {label: sorted(values[2:]) for label, values in taken.items()}
    return {k: {"ms": v[len(v) // 2], "spread": (v[-1] - v[0]) / v[len(v) // 2]} for k, v in counted.items()}


def quantized_rows(name: str, teacher: Checkpoint, judge: Judge, options: argparse.Namespace) -> dict[str, Any]:
    """At four steps: the teacher quantized, a student quantized, and a branch distilled on top of 4 bits."""
    rows: dict[str, Any] = {}
    students = {m: student(name, teacher, m, 4, options) for m in options.methods.split(",") if m.startswith("sfd")}
    for label in options.quantized.split(","):
        sampler, plan, budget = even(teacher.scheduler), SamplingPlan(4), options.iterations
        small = quantized(name, teacher.model, sampler, label, plan)
        rows[f"{label}, quantized alone"] = judge.of(small, sampler, plan, f"{label} alone")
        for method, learned in students.items():
            if hasattr(learned, "program"):
                own, its_plan = drawn_by(learned)
                both = quantized(name, learned, own, label, its_plan)
                found = judge.of(both, own, its_plan, f"{label} after {method} {budget}")
                rows[f"{label}, distil{method.removeprefix('sfd')}, then quantize"] = found
        for by_step, ending in ((False, "the branch"), (True, "a branch for each step")):
            branch = branch_student(name, teacher, small, f"branch-{label}", 4, options, by_step)
            polished = polished_student(name, teacher, label, options, by_step)
            made = {"": ("branch", branch), "distil, ": ("polished", polished)}
            rows |= {
                f"{label}, {before}quantize, then distil {ending}": judged(
                    judge, model, f"{label} {kind}{' by step' * by_step} {budget}"
                )
                for before, (kind, model) in made.items()
                if model is not None
            }
    return rows


def polished_student(name: str, teacher: Checkpoint, label: str, options: argparse.Namespace, by_step: bool) -> Any:
    """All weights learn for two thirds of the iterations, then they are quantized, and the branch learns for the last third.

    It has less to learn than one that begins at the teacher, and at that one's rate it unlearns.
    """
    last = options.iterations // 3
    first, rest = (argparse.Namespace(**{**vars(options), "iterations": n}) for n in (options.iterations - last, last))
    learned = student(name, teacher, "sfd", 4, first)
    if learned is None or isinstance(learned, str):
        return learned
    own, plan = drawn_by(learned)
    small = quantized(name, learned, own, label, plan)
    rest.branch_rate = options.branch_rate / 5
    return branch_student(name, teacher, small, f"polished-{label}", 4, rest, by_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="dit,unet")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", default=",".join(map(str, STEPS)))
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--branch-rate", type=float, default=1e-3)
    parser.add_argument("--teacher", default="w8a8", help="how sfd's teacher is compressed, if at all (default: %(default)s)")
    parser.add_argument("--precision", default="bfloat16", help="of products in training (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to train; judged on the processor (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--quantized", default="", help="W4A8, W4A4 or both, by commas: quantized students too")
    parser.add_argument("--kept", action="store_true", help="show what was trained before; train nothing")
    parser.add_argument("--page", action="store_true", help="write docs/distillation.md, its pictures and a dated JSON")
    options = parser.parse_args()
    results = {name: measured(name, options) for name in options.models.split(",")}
    print(tables(results))
    if not options.page:
        return
    results = {**(todays_record("distillation") or {"models": {}})["models"], **results}  # of the other model
    path = write_record("distillation", {"models": results})
    page(path.name, results)


if __name__ == "__main__":
    main()

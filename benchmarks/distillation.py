"""Step distillation of both shipped models: quality against steps for every method, in float32 and quantized.

    python -m benchmarks.distillation --models dit --methods sfd --steps 4   # trains what is missing, from where it stopped
    python -m benchmarks.distillation --quantized W4A8,W4A4 --page           # docs/distillation.md and a dated JSON
    python -m benchmarks.distillation --kept --page --pictures --times       # images and times too, of what was trained

What was trained stays in build/distill, a folder a run, and is read from there. Every student gets the same batch and the same
number of evaluations of the model: `--iterations` are those of sfd at 4 steps. `apart` is the root mean square distance to the
teacher's own images in 50 steps from the same noise; Fréchet distances are over the same images. Methods that want images get
those that the teacher draws: no data set is needed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from aquatint.checkpoint import Checkpoint, open_checkpoint
from aquatint.commands.bench import processor
from aquatint.commands.demo import MODELS
from aquatint.sampling import SamplingPlan
from benchmarks.distillation_judge import Judge, aims, drawn, drawn_by, even
from benchmarks.distillation_page import COLUMNS, images, page, tables
from benchmarks.distillation_students import branch_student, quantized, recovered_student, student
from benchmarks.records import latest_record, write_record

STEPS, PLAIN_STEPS = (1, 2, 4, 8), (1, 2, 4, 8, 16, 50)
METHODS = ("schedule", "sfd", "progressive", "consistency", "lcm")
TURNS = 9


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
    if options.times:
        found["speed"] = speed(name, teacher, options)
        found["timed"] = f"{processor()}, {torch.get_num_threads()} threads"
    if options.pictures:
        images(name, strips(name, teacher, options))
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
            made = {
                f"quantize, then distil {ending}": branch_student(name, teacher, small, f"branch-{label}", options, by_step),
                f"distil, quantize, then recover by {ending}": recovered_student(name, teacher, label, options, by_step),
            }
            found = {f"{label}, {way}": (model, f"{label} {way} {budget}") for way, model in made.items() if model is not None}
            rows |= {row: judged(judge, model, known) for row, (model, known) in found.items()}
    return rows


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What was measured before of a model, and now on top, row by row; what was trained otherwise is left behind."""
    if before.get("about") != now["about"]:
        return now
    return {k: {**before.get(k, {}), **v} if isinstance(v, dict) else v for k, v in {**before, **now}.items()}


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
    parser.add_argument(
        "--page", action="store_true", help="write docs/distillation.md and a dated JSON, with the last one's rows"
    )
    parser.add_argument("--pictures", action="store_true", help="draw images by what is trained here, from the same noise")
    parser.add_argument("--times", action="store_true", help="time the teacher and the student of sfd in four steps")
    options = parser.parse_args()
    results = {name: measured(name, options) for name in options.models.split(",")}
    print(tables(results))
    if not options.page:
        return
    before = (latest_record("distillation") or {"models": {}})["models"]
    results = {**before, **{name: merged(before.get(name, {}), found) for name, found in results.items()}}
    path = write_record("distillation", {"models": results})
    page(path.name, results)


if __name__ == "__main__":
    main()

"""Fewer steps: a student with the program of its teacher, trained to come as far in few steps as the teacher in many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.calibrate import Recorder, default_calibration
from aquatint.classroom import (
    TEACHER_STEPS,
    Classroom,
    Comparison,
    Conditions,
    Guide,
    Recovery,
    Teacher,
    default_conditions,
    default_unconditional,
)
from aquatint.compiler.by_step import with_steps
from aquatint.compiler.capture import capture
from aquatint.compiler.distilling import Method, describe
from aquatint.compiler.errors import DistillError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.plan import Decision
from aquatint.compiler.process import Process
from aquatint.compiler.program import Program
from aquatint.compiler.report import assemble
from aquatint.compiler.speed_pack import base_digest
from aquatint.compiler.statistics import Calibration
from aquatint.compiler.trainable import Trainable
from aquatint.compiler.training import School, Schooling, Watch
from aquatint.passes.distill import METHODS
from aquatint.passes.tabulate import Tabulate
from aquatint.runtime import target_named
from aquatint.sampling import null_label, times_of

# What a method's scheduler is called with flow matching.
FLOW = {"DDIMScheduler": "FlowMatchEulerDiscreteScheduler", "LCMScheduler": "FlowMatchLCMScheduler"}


def distill(
    model: nn.Module,
    scheduler: Any,
    method: str | Method = "sfd",
    steps: int = 4,
    *,
    train: str = "all",
    by_step: bool = False,
    teacher: nn.Module | None = None,
    data: Tensor | None = None,
    conditions: Conditions | None = None,
    guidance: float = 1.0,
    unconditional: Conditions | None = None,
    time_scale: float = 1.0,
    calibrate: Callable[[Any], object] | None = None,
    batch: int = 32,
    schooling: Schooling = Schooling(),  # noqa: B008  frozen
    folder: str | Path | None = None,
    tables: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
    watch: Watch = lambda *_: None,
) -> CompressedModule:
    """A student of `model` that draws in `steps` steps; called like the model.

    model       an nn.Module, or what `optimize` returned
    scheduler   the diffusers scheduler that it was trained for: it says what the model predicts
    method      "sfd" (needs no data), "progressive", "consistency", "lcm"; or an object with `losses`, your own; or "schedule",
                which trains nothing and finds the times that so few steps are best taken at; or "recover": a student that was
                quantized learns, in its branch, to say what it said before (teacher=), at its own times
    train       "all" weights; "lora", adapters that are added to them in the end; or the low-rank "branch" of a quantized
                model, whose 4-bit weights stay as they are
    by_step     a branch of its own for each step: as many small branches over one base, of which a call uses one
    teacher     whom to learn from: the model as it was before it was quantized; None: the model itself. A compressed one runs
                by its kernels: in 8 bits ("w8a8") it teaches faster than the model, and says the same to 43 dB
    data        images (M, C, H, W) as the model sees them, for methods that need some
    conditions  called with (count, generator), gives the model's other inputs by name: class_labels, encoder_hidden_states
    guidance    the weight of classifier-free guidance that the teacher draws with; the student learns it, and is called
                without, once a step (arXiv 2210.03142)
    unconditional  like conditions, gives what stands for none; known without it for a model with a label for no class
    time_scale  what the scheduler's times are multiplied with before the model is told: 1/1000 for Flux, as its pipeline does
    calibrate   called with the model, shows a call of it, as for `optimize`; needed for models that are not of diffusers
    schooling   iterations, seconds, learning rate; see `Schooling`
    folder      where checkpoints go, and where a run that was stopped goes on from
    tables      what follows from time (and a class) alone is looked up: no products for it any more, and no other times; see
                `passes.tabulate`
    device      where teacher and student are trained, e.g. "cuda"; the student that is returned runs on the processor
    watch       called as (iteration, loss, seconds left)

    The student carries its scheduler's configuration in `program.sampler`, with its number of steps, and a `Comparison` or
    `Recovery` in `report["distillation"]`. Raises DistillError for a scheduler that contradicts the model, for missing data,
    when the loss is no number, when the student is worse than its teacher's plain sampler at the same number of steps, and when
    one that was quantized recovered nothing.
    """
    chosen: Any = METHODS[method]() if isinstance(method, str) and method in METHODS else method
    if isinstance(chosen, str):
        raise DistillError(f"no method {chosen!r}; known: {', '.join(METHODS)}")
    if not 1 <= steps <= TEACHER_STEPS:
        raise DistillError(f"a student of {steps} steps: between 1 and the {TEACHER_STEPS} that its teacher is judged in")
    if chosen.needs_data and data is None:
        raise DistillError(f"{chosen.name} learns from images: give data=; without any there is sfd")
    recovers = getattr(chosen, "of_student", False)
    _check_training(chosen, train, by_step, teacher, guidance, tables)
    where = _reachable(device)
    program = program_of(model, calibrate, scheduler, seed)
    asked = conditions or default_conditions(program)
    process, student = Process.of(scheduler), Trainable(program, train, where)
    process = process if time_scale == 1.0 else replace(process, told=process.told * time_scale)
    guide = None if guidance == 1.0 else Guide(guidance, unconditional or default_unconditional(program))
    above = program if teacher is None else program_of(teacher, calibrate, scheduler, seed)
    by_kernels = teacher if isinstance(teacher, CompressedModule) else None
    first = Teacher(by_kernels or Trainable(above, device=where).requires_grad_(False), guide)
    shape = program.interface.inputs[0].example[1:]
    classroom = Classroom(process, first, student, first, shape, asked, batch, seed)
    classroom.check()
    taken = _students_sampler(above, steps) if recovers else None
    stages = _stages(chosen, classroom, steps) if taken is None else [_stamps_of(taken, process, time_scale)]
    if by_step:
        told = (process.told[list(stages[-1])]).tolist()
        student = Trainable(with_steps(program, told), train, where)
        classroom = replace(classroom, student=student)
    state = student.state()
    if chosen.trains:
        drawn = {"seed": seed, "batch": batch, "train": train, "guidance": guidance, "time_scale": time_scale}
        drawn |= {"by_step": True} if by_step else {}
        drawn |= {"base": base_digest(program)} if train == "branch" else {}
        about = {**describe(chosen), **drawn} | ({} if by_kernels is None else {"teacher": dict(by_kernels.recipe)})
        for stage, stamps in enumerate(stages):
            part = replace(schooling, iterations=max(1, schooling.iterations // len(stages)))
            place = None if folder is None else Path(folder) / f"stage{stage}"
            state = classroom.taught(
                chosen, stamps, data, School(student, part, place, {**about, "stamps": list(stamps)}), watch
            )
            classroom = classroom.promoted()
    trained = student.program_with(state)
    found = _judged(classroom, chosen, trained, stages[-1], program if recovers else None)
    sampler = taken or _sampler(scheduler, chosen, stages[-1], process) | ({} if guide is None else {"guidance": guidance})
    trained = replace(trained, sampler=sampler)
    if tables:
        trained = with_tables(trained, [time * time_scale for time in times_of(sampler)])
    kept = {site.name: Decision(None, "as its teacher's, but for what was learned") for site in trained.sites}
    base = model.report if isinstance(model, CompressedModule) else assemble(program, trained, "distilled", kept, [])
    report = {**base, "distillation": {"method": chosen.name, "comparison": str(found), **asdict(found)}}
    return CompressedModule(trained, target_named("cpu"), getattr(model, "recipe", {}), report)


def _check_training(method: Any, train: str, by_step: bool, teacher: nn.Module | None, guidance: float, tables: bool) -> None:
    """DistillError where what shall be trained does not go with how."""
    if not method.trains and guidance != 1.0:
        raise DistillError(
            f"{method.name} trains nothing, so no student learns a guidance of {guidance:g}: draw with it instead"
        )
    if getattr(method, "of_student", False) and train != "branch":
        raise DistillError(f"{method.name} is for the branch of a quantized student: train='branch'")
    if getattr(method, "of_student", False) and guidance != 1.0:
        raise DistillError(f"{method.name} learns what the student said, whose guidance is in it already: leave guidance out")
    if train == "branch" and teacher is None:
        raise DistillError("a branch learns from the model as it was before it was quantized: give teacher=")
    if by_step and (train != "branch" or tables or not method.trains):
        raise DistillError("branches by step are what train='branch' trains, with a method that trains, and without tables")


def _judged(
    classroom: Classroom, method: Any, trained: Program, stamps: Sequence[int], quantized: Program | None
) -> Comparison | Recovery:
    """What was learned, or what of a `quantized` student was recovered; DistillError where it is worse than not to train."""
    if quantized is not None:
        found = classroom.recovered(method, trained, quantized, stamps)
        if not found.student <= found.quantized:
            raise DistillError(f"refused: the student is further from what it was than before it learned ({found})")
        return found
    found = classroom.compared(trained, stamps)
    if not found.student <= found.teacher:
        raise DistillError(
            f"refused: the student is worse than the teacher's plain sampler at the same number of steps ({found})"
        )
    return found


def with_tables(program: Program, stamps: list[float]) -> Program:
    """A student's program that looks up what follows from its stamps, and a class, alone."""
    nothing = null_label(program.config)
    rows = int(program.config.get("num_class_embeds") or 0) if nothing is None else nothing + 1
    return run_pass(program, Tabulate(tuple(stamps), rows), Context({}, Calibration(((),))))[0]


def program_of(model: nn.Module, calibrate: Callable[[Any], object] | None, scheduler: Any, seed: int) -> Program:
    """The program of a compressed module, or `model` captured from the first call that `calibrate` makes."""
    if isinstance(model, CompressedModule):
        return model.program
    with Recorder(model, 1) as recorder:
        (calibrate or default_calibration(model, scheduler, seed))(model)
    if not recorder.examples:
        raise DistillError("`calibrate` never called the model")
    return capture(model, recorder.examples[0], type(model).__name__)


def _reachable(device: torch.device | str) -> torch.device:
    """DistillError for one that this torch has not."""
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise DistillError(f"a student can't be trained on {device}: {str(error).splitlines()[0]}") from error


def _stages(method: Any, classroom: Classroom, steps: int) -> list[tuple[int, ...]]:
    """The stamps of each stage: progressive distillation comes from eight times as many steps by halving."""
    norm = getattr(method, "norm", None)
    if norm is not None and steps > 1:
        return [classroom.best_times(steps, norm)]
    counts = [steps * 4, steps * 2, steps] if method.name == "progressive" else [steps]
    return [tuple(classroom.process.stamps(count)) for count in counts]


def _students_sampler(program: Program, steps: int) -> dict[str, Any]:
    """The scheduler's configuration that a student of so many steps carries; DistillError for another model."""
    sampler = dict(program.sampler or {})
    if sampler.get("num_inference_steps") != steps or "LCM" in sampler.get("_class_name", ""):
        has = f"{sampler.get('_class_name', 'none')} in {sampler.get('num_inference_steps', 'no given number of')} steps"
        raise DistillError(
            f"to recover is to learn from a student in {steps} steps without noise between them; the teacher's sampler: {has}. "
            "Give the student as teacher=, as it was before it was quantized"
        )
    return sampler


def _stamps_of(sampler: Mapping[str, Any], process: Process, time_scale: float) -> tuple[int, ...]:
    """The times that a student's scheduler tells the model, as stamps of its process."""
    return tuple(int((process.told - time * time_scale).abs().argmin()) for time in times_of(sampler))


def _sampler(scheduler: Any, method: Any, stamps: Sequence[int], process: Process) -> dict[str, Any]:
    """What a pipeline draws with the student: a scheduler of diffusers, how many steps of it, its times if they are uneven."""
    config = {k: v for k, v in dict(scheduler.config).items() if not k.startswith("_")}
    if process.is_flow:
        sigmas = [(stamp + 1) / process.times for stamp in stamps]  # before they are shifted
        return {**config, "_class_name": FLOW[method.sampler], "num_inference_steps": len(sigmas), "sigmas": sigmas}
    changed = {
        "_class_name": method.sampler,
        "clip_sample": False,
        "timestep_spacing": "trailing",
        "num_inference_steps": len(stamps),
    }
    if list(stamps) == process.stamps(len(stamps)):
        return {**config, **changed}
    first_order = {
        "_class_name": "DPMSolverMultistepScheduler",
        "solver_order": 1,
        "final_sigmas_type": "zero",
    }  # which is DDIM
    return {**config, **changed, **first_order, "timesteps": list(stamps)}

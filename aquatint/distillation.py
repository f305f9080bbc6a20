"""Fewer steps: a student with the program of its teacher, trained to come as far in few steps as the teacher in many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.calibrate import Recorder, default_calibration
from aquatint.compiler.capture import capture
from aquatint.compiler.distilling import Batch, Lesson, Method, Says, ddim, describe
from aquatint.compiler.errors import DistillError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.plan import Decision
from aquatint.compiler.process import Process, check_prediction
from aquatint.compiler.program import Program
from aquatint.compiler.report import assemble
from aquatint.compiler.time_schedule import optimal_stamps
from aquatint.compiler.trainable import Trainable
from aquatint.compiler.training import School, Schooling, Watch
from aquatint.passes.distill import METHODS
from aquatint.runtime import target_named

Conditions = Callable[[int, torch.Generator], dict[str, Tensor]]
CHECKED = 64  # images that teacher and student are compared on
TEACHER_STEPS = 50
FLOW = {
    "DDIMScheduler": "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler": "FlowMatchLCMScheduler",
}  # the same with flow matching


@dataclass(frozen=True)
class Comparison:
    """Root mean square distances to the teacher's images in 50 steps, from the same noise."""

    steps: int
    student: float
    teacher: float  # its plain sampler, in as many steps as the student

    def __str__(self) -> str:
        return (
            f"{self.steps} steps: {self.student:.4f} from the teacher in {TEACHER_STEPS}, the teacher itself {self.teacher:.4f}"
        )


def distill(
    model: nn.Module,
    scheduler: Any,
    method: str | Method = "sfd",
    steps: int = 4,
    *,
    train: str = "all",
    teacher: nn.Module | None = None,
    data: Tensor | None = None,
    conditions: Conditions | None = None,
    calibrate: Callable[[Any], object] | None = None,
    batch: int = 32,
    schooling: Schooling = Schooling(),  # noqa: B008  frozen
    folder: str | Path | None = None,
    seed: int = 0,
    watch: Watch = lambda *_: None,
) -> CompressedModule:
    """A student of `model` that draws in `steps` steps; called like the model.

    model       an nn.Module, or what `optimize` returned
    scheduler   the diffusers scheduler that it was trained for: it says what the model predicts
    method      "sfd" (needs no data), "progressive", "consistency", "lcm"; or an object with `losses`, your own; or "schedule",
                which trains nothing and finds the times that so few steps are best taken at
    train       "all" weights, or the low-rank "branch" of a quantized model, whose 4-bit weights stay as they are
    teacher     whom to learn from: the model as it was before it was quantized; None: the model itself
    data        images (M, C, H, W) as the model sees them, for methods that need some
    conditions  called with (count, generator), gives the model's other inputs by name: class_labels, encoder_hidden_states
    calibrate   called with the model, shows a call of it, as for `optimize`; needed for models that are not of diffusers
    schooling   iterations, seconds, learning rate; see `Schooling`
    folder      where checkpoints go, and where a run that was stopped goes on from
    watch       called as (iteration, loss, seconds left)

    The student carries its scheduler's configuration in `program.sampler`, with its number of steps, and a `Comparison` in
    `report["distillation"]`. Raises DistillError for a scheduler that contradicts the model, for missing data, when the loss is
    no number, and when the student is worse than its teacher's plain sampler at the same number of steps.
    """
    chosen: Any = METHODS[method]() if isinstance(method, str) and method in METHODS else method
    if isinstance(chosen, str):
        raise DistillError(f"no method {chosen!r}; known: {', '.join(METHODS)}")
    if not 1 <= steps <= TEACHER_STEPS:
        raise DistillError(f"a student of {steps} steps: between 1 and the {TEACHER_STEPS} that its teacher is judged in")
    if chosen.needs_data and data is None:
        raise DistillError(f"{chosen.name} learns from images: give data=; without any there is sfd")
    if train == "branch" and teacher is None:
        raise DistillError("a branch learns from the model as it was before it was quantized: give teacher=")
    program = program_of(model, calibrate, scheduler, seed)
    above = program if teacher is None else program_of(teacher, calibrate, scheduler, seed)
    frozen = Trainable(above).requires_grad_(False)
    asked = conditions or default_conditions(program)
    process, student = Process.of(scheduler), Trainable(program, train)
    classroom = Classroom(process, frozen, student, frozen, program.interface.inputs[0].example[1:], asked, batch, seed)
    classroom.check()
    stages = _stages(chosen, classroom, steps)
    state = student.state()
    if chosen.trains:
        about = {**describe(chosen), "seed": seed, "batch": batch, "train": train}
        for stage, stamps in enumerate(stages):
            part = replace(schooling, iterations=max(1, schooling.iterations // len(stages)))
            place = None if folder is None else Path(folder) / f"stage{stage}"
            state = classroom.taught(
                chosen, stamps, data, School(student, part, place, {**about, "stamps": list(stamps)}), watch
            )
            classroom = classroom.promoted()
    found = classroom.compared(stages[-1])
    if not found.student <= found.teacher:
        raise DistillError(
            f"refused: the student is worse than the teacher's plain sampler at the same number of steps ({found})"
        )
    trained = replace(student.program_with(state), sampler=_sampler(scheduler, chosen, stages[-1], process))
    kept = {site.name: Decision(None, "as its teacher's, but for what was learned") for site in trained.sites}
    base = model.report if isinstance(model, CompressedModule) else assemble(program, trained, "distilled", kept, [])
    report = {**base, "distillation": {"method": chosen.name, "comparison": str(found)}}
    return CompressedModule(trained, target_named("cpu"), getattr(model, "recipe", {}), report)


@dataclass(frozen=True)
class Classroom:
    """Teacher and student, and what both are asked about."""

    process: Process
    teacher: Trainable
    student: Trainable
    original: Trainable
    shape: tuple[int, ...]
    conditions: Conditions
    batch: int
    seed: int

    def check(self) -> None:
        """Does the scheduler say of the model what it does? DistillError if not."""
        noise, given = self.noise(4, -1)
        with torch.no_grad():
            said = self.says(self.teacher, given)(noise, torch.full((4,), self.process.times - 1))
        check_prediction(self.process, noise, said)

    def noise(self, count: int, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise of an iteration, and the conditions that go with it."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration + 1)
        given = self.conditions(count, random)
        return torch.randn(count, *self.shape, generator=random), given

    def says(self, who: Trainable, given: dict[str, Tensor], precision: str = "float32") -> Says:
        """What one of them predicts under conditions."""
        name = who.program.interface.inputs[0].path

        def predicted(state: Tensor, time: Tensor) -> Tensor:
            with torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                said = who(**{name: state, "timestep": self.process.told[time]}, **given)
            return said[:, : state.shape[1]].float()

        return predicted

    def taught(
        self, method: Method, stamps: Sequence[int], data: Tensor | None, school: School, watch: Watch
    ) -> dict[str, Tensor]:
        """The student's weights after all iterations; every draw of one is seeded by its number."""

        def losses(iteration: int, done: float) -> Iterator[Tensor]:
            noise, given = self.noise(self.batch, iteration)
            random = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration + 500_000)
            clean = None if data is None else data[torch.randint(len(data), (self.batch,), generator=random)].float()
            teacher, student = (self.says(who, given, school.schooling.precision) for who in (self.teacher, self.student))
            lesson = Lesson(self.process, teacher, student, tuple(stamps))
            return method.losses(lesson, Batch(noise, clean, random, done))

        state = self.student.shipped(school.run(losses, watch))
        self.student.load(state)
        return state

    def promoted(self) -> Classroom:
        """With what the student knows now as the next teacher."""
        program = self.student.program_with(self.student.state())
        return replace(self, teacher=Trainable(program).requires_grad_(False))

    def compared(self, stamps: Sequence[int]) -> Comparison:
        """Student and plain teacher beside the teacher in many steps, on noise that neither has seen."""
        noise, given = self.noise(CHECKED, -2)
        student, original = self.says(self.student, given), self.says(self.original, given)

        def drawn(says: Says, through: Sequence[int]) -> Tensor:
            with torch.no_grad():
                return ddim(self.process, says, noise, through)

        far, plain = drawn(original, self.process.stamps(TEACHER_STEPS)), self.process.stamps(len(stamps))
        pairs = ((student, stamps), (original, plain))
        apart = [(drawn(says, through) - far).square().mean().sqrt().item() for says, through in pairs]
        return Comparison(len(stamps), *apart)

    def best_times(self, steps: int) -> tuple[int, ...]:
        """Of the teacher's own path."""
        noise, given = self.noise(CHECKED, -3)
        return optimal_stamps(self.process, self.says(self.teacher, given), noise, steps)


def program_of(model: nn.Module, calibrate: Callable[[Any], object] | None, scheduler: Any, seed: int) -> Program:
    """The program of a compressed module, or `model` captured from the first call that `calibrate` makes."""
    if isinstance(model, CompressedModule):
        return model.program
    with Recorder(model, 1) as recorder:
        (calibrate or default_calibration(model, scheduler, seed))(model)
    if not recorder.examples:
        raise DistillError("`calibrate` never called the model")
    return capture(model, recorder.examples[0], type(model).__name__)


def default_conditions(program: Program) -> Conditions:
    """Nothing, or random class labels for a model that takes some; DistillError for what can't be guessed."""
    others = [s.path for s in program.interface.inputs[1:] if s.path != "timestep"]
    if not others:
        return lambda count, random: {}
    classes = program.config.get("num_embeds_ada_norm") or program.config.get("num_class_embeds")
    if others != ["class_labels"] or not classes:
        raise DistillError(f"{program.name} also takes {', '.join(others)}: say with conditions= what to give")
    return lambda count, random: {"class_labels": torch.randint(int(classes), (count,), generator=random)}


def _stages(method: Any, classroom: Classroom, steps: int) -> list[tuple[int, ...]]:
    """The stamps of each stage: progressive distillation comes from eight times as many steps by halving."""
    if method.name == "schedule":
        return [classroom.best_times(steps)]
    counts = [steps * 4, steps * 2, steps] if method.name == "progressive" else [steps]
    return [tuple(classroom.process.stamps(count)) for count in counts]


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

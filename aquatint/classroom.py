"""A classroom: teacher and student as functions of a state and a time, what both are asked, and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson, Method, Says, ddim
from aquatint.compiler.errors import DistillError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.process import Process, check_prediction
from aquatint.compiler.program import Program
from aquatint.compiler.time_schedule import optimal_stamps
from aquatint.compiler.trainable import Trainable
from aquatint.compiler.training import School, Watch
from aquatint.sampling import null_label

Conditions = Callable[[int, torch.Generator], dict[str, Tensor]]
CHECKED = 64  # images that teacher and student are compared on
TEACHER_STEPS = 50


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


@dataclass(frozen=True)
class Recovery:
    """Mean absolute distances of a step to the one that a student took from there before it was quantized."""

    steps: int
    student: float
    quantized: float  # as it was before it learned

    def __str__(self) -> str:
        return f"{self.steps} steps: {self.student:.5f} from the student before it was quantized, {self.quantized:.5f} without"


@dataclass(frozen=True)
class Guide:
    """Classifier-free guidance (arXiv 2207.12598): away from what is said under no condition, by a weight."""

    weight: float
    unconditional: Conditions


@dataclass(frozen=True)
class Teacher:
    """Whom a student learns from, and the guidance that comes with it. A compressed one runs by its kernels."""

    model: Trainable | CompressedModule
    guide: Guide | None = None


@dataclass(frozen=True)
class Classroom:
    """Teacher and student, and what both are asked about; the student is compared with the `original`, the first teacher."""

    process: Process
    teacher: Teacher
    student: Trainable
    original: Teacher
    shape: tuple[int, ...]
    conditions: Conditions
    batch: int
    seed: int

    def check(self) -> None:
        """Does the scheduler say of the model what it does? DistillError if not."""
        noise, given = self.noise(4, -1)
        with torch.no_grad():
            said = self.says(self.teacher.model, given)(noise, torch.full((4,), self.process.times - 1))
        check_prediction(self.process, noise, said)

    @property
    def device(self) -> torch.device:
        """Where it all is computed. What is drawn is drawn by the processor, so that a seed means the same everywhere."""
        return self.student.device

    def noise(self, count: int, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise of an iteration, and the conditions that go with it."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration + 1)
        given = {name: tensor.to(self.device) for name, tensor in self.conditions(count, random).items()}
        return torch.randn(count, *self.shape, generator=random).to(self.device), given

    def says(self, who: Trainable | CompressedModule, given: dict[str, Tensor], precision: str = "float32") -> Says:
        """What one of them predicts under conditions."""
        interface, compressed = who.program.interface, isinstance(who, CompressedModule)
        name = interface.inputs[0].path

        def predicted(state: Tensor, time: Tensor) -> Tensor:
            narrow = precision == "bfloat16" and not compressed
            asked = {name: state, "timestep": self.process.told[time].to(state.device), **given}
            with torch.autocast(state.device.type, torch.bfloat16) if narrow else nullcontext():
                said = who.run(interface.flatten((), asked)[0])[0]
            return said[:, : state.shape[1]].to(state)

        return predicted

    def teaches(self, who: Teacher, given: dict[str, Tensor], precision: str = "float32") -> Says:
        """What a teacher predicts, with its guidance."""
        wanted, guide = self.says(who.model, given, precision), who.guide
        if guide is None:
            return wanted

        def predicted(state: Tensor, time: Tensor) -> Tensor:
            nothing = guide.unconditional(len(state), torch.Generator().manual_seed(0))
            unasked = {**given, **{name: tensor.to(state.device) for name, tensor in nothing.items()}}
            plain = self.says(who.model, unasked, precision)(state, time)
            return plain + guide.weight * (wanted(state, time) - plain)

        return predicted

    def taught(
        self, method: Method, stamps: Sequence[int], data: Tensor | None, school: School, watch: Watch
    ) -> dict[str, Tensor]:
        """The student's weights after all iterations; every draw of one is seeded by its number."""

        def losses(iteration: int, done: float) -> Iterator[Tensor]:
            turn = school.company.turn(iteration)
            noise, given = self.noise(self.batch, turn)
            random = torch.Generator().manual_seed(self.seed * 1_000_003 + turn + 500_000)
            clean = None if data is None else data[torch.randint(len(data), (self.batch,), generator=random)].to(noise)
            precision = school.schooling.precision
            teacher = self.teaches(self.teacher, given, precision)
            student = self.says(self.student, given, precision)
            lesson = Lesson(self.process, teacher, student, tuple(stamps))
            return method.losses(lesson, Batch(noise, clean, random, done))

        state = school.run(losses, watch)
        self.student.load(state)
        return state

    def promoted(self) -> Classroom:
        """With what the student knows now as the next teacher."""
        return replace(self, teacher=self.runs(self.student.program_with(self.student.state())))

    def compared(self, trained: Program, stamps: Sequence[int]) -> Comparison:
        """What was trained and the plain teacher beside the teacher in many steps, on noise that neither has seen."""
        even = self.process.stamps
        far = self.drawn(self.original, even(TEACHER_STEPS))
        images = self.drawn(self.runs(trained), stamps), self.drawn(self.original, even(len(stamps)))
        return Comparison(len(stamps), *(_apart(drawn, far) for drawn in images))

    def recovered(self, method: Method, trained: Program, quantized: Program, stamps: Sequence[int]) -> Recovery:
        """What was trained, and what it was before that, on noise that neither has seen."""
        return Recovery(len(stamps), *(self.loss(method, program, stamps) for program in (trained, quantized)))

    def loss(self, method: Method, program: Program, stamps: Sequence[int]) -> float:
        """The mean of a method's losses, of a program as it ships."""
        noise, given = self.noise(CHECKED, -2)
        original, student = self.teaches(self.original, given), self.teaches(self.runs(program), given)
        lesson = Lesson(self.process, original, student, tuple(stamps))
        with torch.no_grad():
            losses = [float(part) for part in method.losses(lesson, Batch(noise, None, torch.Generator(), 1.0))]
        return sum(losses) / len(losses)

    def runs(self, program: Program) -> Teacher:
        """A program as it ships."""
        return Teacher(Trainable(program, device=self.device).requires_grad_(False))

    def drawn(self, who: Teacher, stamps: Sequence[int]) -> Tensor:
        """Images of steps through `stamps`, from noise that training never sees."""
        noise, given = self.noise(CHECKED, -2)
        with torch.no_grad():
            return ddim(self.process, self.teaches(who, given), noise, stamps)

    def best_times(self, steps: int, norm: float) -> tuple[int, ...]:
        """Of the teacher's own path."""
        noise, given = self.noise(CHECKED, -3)
        return optimal_stamps(self.process, self.teaches(self.teacher, given), noise, steps, norm)


def _apart(images: Tensor, others: Tensor) -> float:
    return (images - others).square().mean().sqrt().item()


def default_conditions(program: Program) -> Conditions:
    """Nothing, or random class labels for a model that takes some; DistillError for what can't be guessed."""
    others = [s.path for s in program.interface.inputs[1:] if s.path != "timestep"]
    if not others:
        return lambda count, random: {}
    classes = program.config.get("num_embeds_ada_norm") or program.config.get("num_class_embeds")
    if others != ["class_labels"] or not classes:
        raise DistillError(f"{program.name} also takes {', '.join(others)}: say with conditions= what to give")
    return lambda count, random: {"class_labels": torch.randint(int(classes), (count,), generator=random)}


def default_unconditional(program: Program) -> Conditions:
    """The label that stands for no class; DistillError for a model that has none."""
    nothing = null_label(program.config)
    if nothing is None or "class_labels" not in [spec.path for spec in program.interface.inputs]:
        raise DistillError(
            f"{program.name} takes no class with a label for none, so it has no guidance; or say with unconditional= what its "
            "inputs are without a condition"
        )
    return lambda count, random: {"class_labels": torch.full((count,), nothing)}

"""What every distillation has in common: teacher and student as functions of a state and a time, and what a batch brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from aquatint.compiler.process import CLEAN, Process

LATER = 1.4  # by which power of its number a substep of the solver begins: see docs/fewer_steps.md
Says = Callable[[Tensor, Tensor], Tensor]  # a state (N, ...) and times (N,) -> what the model predicts


@dataclass(frozen=True)
class Batch:
    """What one iteration works on. Times and what is drawn at random are on the processor, images where they are computed.

    noise   (N, ...);  clean: images from the user's data, or None
    random  for whatever a loss draws
    done    the share of the training that is behind
    """

    noise: Tensor
    clean: Tensor | None
    random: torch.Generator
    done: float


@dataclass(frozen=True)
class Lesson:
    """Who teaches whom: `stamps` are the times that the student steps through, the noisiest first; behind them lies CLEAN."""

    process: Process
    teacher: Says
    student: Says
    stamps: tuple[int, ...]

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(time, next time) of each step."""
        return list(pairwise((*self.stamps, CLEAN)))


class Method(Protocol):
    """A way to distil: `losses` of a batch; after each one the student's weights take a step.

    sampler  the diffusers scheduler that draws with the student: "DDIMScheduler" steps on, "LCMScheduler" adds noise anew
    One may have a `norm`, of the costs of steps, by which the student's times are chosen (`time_schedule`); else they are even.
    One may be `of_student`: its teacher is a student of as many steps, whose times and scheduler are kept.
    """

    name: ClassVar[str]
    trains: ClassVar[bool]
    needs_data: ClassVar[bool]
    sampler: ClassVar[str]

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]: ...


def seen(process: Process, says: Says, state: Tensor, time: Tensor) -> Tensor:
    """The image that is seen in each state (N, ...) at its time; behind the last step the state is the image."""
    here = time.clamp(min=0)
    clean, _ = process.split(state, says(state, here), here)
    return torch.where((time == CLEAN).view(-1, *[1] * (state.dim() - 1)).to(state.device), state, clean)


def ddim(process: Process, says: Says, state: Tensor, stamps: Sequence[int]) -> Tensor:
    """The images that steps of DDIM through `stamps` lead to from `state`."""
    for now, to in pairwise((*stamps, CLEAN)):
        time = torch.full((len(state),), now)
        state = process.moved(state, says(state, time), time, to)
    return state


def solved(process: Process, says: Says, state: Tensor, now: int, to: int, substeps: int) -> Tensor:
    """The state at `to` by DPM-Solver++ (2M), in `substeps` (arXiv 2211.01095, algorithm 2), shorter ones first.

    The first is of the first order alone: in even steps it makes most of the error.
    """
    times = [round(now + (to - now) * (i / substeps) ** LATER) for i in range(substeps + 1)]
    before: tuple[Tensor, Tensor] | None = None  # the image that was said last, and the step in log-SNR that followed
    for here, there in pairwise(times):
        time = torch.full((len(state),), here)
        clean, _ = process.split(state, says(state, time), time)
        if there == CLEAN:
            return clean
        alpha, sigma = process.at(there, state)
        _, sigma_here = process.at(here, state)
        step = process.log_snr(torch.tensor(there)) - process.log_snr(torch.tensor(here))
        better = clean if before is None else clean + (clean - before[0]) * (step / (2 * before[1]))
        before = clean, step
        state = sigma / sigma_here * state + alpha * (1 - (-step).exp()) * better
    return state


def on_own_path(lesson: Lesson, start: Tensor, target: Callable[[Tensor, int, int], Tensor]) -> Iterator[Tensor]:
    """The mean absolute distance of each of the student's steps to `target`(state, time, next time), from where it came to."""
    state = start
    for now, to in lesson.steps:
        with torch.no_grad():
            aim = target(state, now, to)
        time = torch.full((len(state),), now)
        reached = lesson.process.moved(state, lesson.student(state, time), time, to)
        yield (reached - aim).abs().mean()
        state = reached.detach()


def describe(method: Any) -> Mapping[str, Any]:
    """A method's options, for a checkpoint to say what it is of."""
    return {"method": method.name, **vars(method)}

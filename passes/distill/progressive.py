"""Progressive distillation: one step of the student for two of the teacher; halving after halving comes to few steps.

Salimans & Ho 2022 (arXiv 2202.00512), algorithm 2; the loss is weighted by the truncated signal-to-noise ratio, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson, seen
from aquatint.compiler.process import CLEAN


@dataclass(frozen=True)
class Progressive:
    """One halving: the lesson's teacher steps twice where its student steps once."""

    name: ClassVar[str] = "progressive"
    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True
    sampler: ClassVar[str] = "DDIMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """max(SNR, 1) times the distance of images, at a random stamp for each of the batch."""
        assert batch.clean is not None
        process, count = lesson.process, len(batch.noise)
        steps = torch.tensor(lesson.steps)[torch.randint(len(lesson.stamps), (count,), generator=batch.random)]
        now, to = steps.unbind(1)
        between = torch.where(to == CLEAN, now // 2, (now + to) // 2)
        state = process.noised(batch.clean, batch.noise, now)
        with torch.no_grad():
            half = process.moved(state, lesson.teacher(state, now), now, between)
            reached = process.moved(half, lesson.teacher(half, between), between, to)
            target = _image_that_leads_to(reached, state, lesson, now, to)
        clean = seen(process, lesson.student, state, now)
        alpha, sigma = process.at(now, state)
        weight = (alpha / sigma).square().clamp(min=1.0)
        yield (weight * (clean - target).square()).mean()


def _image_that_leads_to(reached: Tensor, state: Tensor, lesson: Lesson, now: Tensor, to: Tensor) -> Tensor:
    """The image from which one step of DDIM arrives at `reached`; at the end that is `reached` itself."""
    alpha, sigma = lesson.process.at(now, state)
    alpha_to, sigma_to = lesson.process.at(to, state)
    ratio = sigma_to / sigma
    return (reached - ratio * state) / (alpha_to - ratio * alpha)

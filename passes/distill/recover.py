"""Taking back what quantizing a student cost: it learns to say what it said before, on the path that it takes now.

Distillation into a quantized network from what it was made of (Polino et al. 2018, arXiv 1802.05668, section 3), at a student's
own few stamps, each from where the quantized student came to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson, on_own_path


@dataclass(frozen=True)
class Recover:
    """Its teacher is a student already, and steps through as many times: an iteration evaluates it once a step."""

    name: ClassVar[str] = "recover"
    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    of_student: ClassVar[bool] = True
    sampler: ClassVar[str] = "DDIMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """The mean absolute distance to the teacher's own step at each stamp, from where the student came to."""

        def target(state: Tensor, now: int, to: int) -> Tensor:
            time = torch.full((len(state),), now)
            return lesson.process.moved(state, lesson.teacher(state, time), time, to)

        return on_own_path(lesson, batch.noise, target)

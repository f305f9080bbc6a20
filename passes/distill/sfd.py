"""Simple and fast distillation: the student learns on the path that it takes itself, without any data.

Zhou et al. 2024, "Simple and Fast Distillation of Diffusion Models" (arXiv 2409.19681), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson, on_own_path, solved
from aquatint.compiler.time_schedule import HARDEST


@dataclass(frozen=True)
class Sfd:
    """substeps: of the teacher for one of the student, at least; over all steps it takes 16.

    norm: of the costs of the student's steps, as `compiler.time_schedule` has it: by default the hardest step shall be as easy
    as can be; None: even times
    """

    substeps: int = 4
    norm: float | None = HARDEST
    name: ClassVar[str] = "sfd"
    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    sampler: ClassVar[str] = "DDIMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """The mean absolute distance to the teacher at each stamp, from where the student came to."""
        substeps = max(self.substeps, 16 // len(lesson.stamps))

        def target(state: Tensor, now: int, to: int) -> Tensor:
            return solved(lesson.process, lesson.teacher, state, now, to, substeps)

        return on_own_path(lesson, batch.noise, target)

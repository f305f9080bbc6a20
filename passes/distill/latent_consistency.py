"""Latent consistency distillation: consistent with where the teacher's solver comes to, many time steps further.

Luo et al. 2023 (arXiv 2310.04378), algorithm 1: pseudo-Huber distance. The target is the student as it is, without a gradient,
and no average of it: in runs as short as a processor allows, averages changed nothing (docs/fewer_steps.md).
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
class LatentConsistency:
    """grid: times that the teacher's solver steps through; huber: the distance from which on it counts as one."""

    grid: int = 50
    huber: float = 0.001
    name: ClassVar[str] = "lcm"
    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True
    sampler: ClassVar[str] = "LCMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """The distance of the image seen now from the one seen a step of the teacher further on."""
        assert batch.clean is not None
        process, count = lesson.process, len(batch.noise)
        skip = process.times // self.grid
        place = torch.randint(1, self.grid + 1, (count,), generator=batch.random)
        time = place * skip - 1
        further = torch.where(place > 1, time - skip, torch.full_like(time, CLEAN))
        state = process.noised(batch.clean, batch.noise, time)
        with torch.no_grad():
            near = process.moved(state, lesson.teacher(state, time), time, further)
            target = seen(process, lesson.student, near, further)
        clean = seen(process, lesson.student, state, time)
        yield ((clean - target).square() + self.huber**2).sqrt().mean() - self.huber

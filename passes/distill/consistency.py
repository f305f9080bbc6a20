"""Consistency models, made easily: what the model sees in two states of one path shall be the same image.

Geng et al. 2024, "Consistency Models Made Easy" (arXiv 2406.14548): equation 15 says how far apart they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson, seen
from aquatint.compiler.process import CLEAN, Process


@dataclass(frozen=True)
class Consistency:
    """q, stages: the second state is 1 - q^-stage as noisy as the first, for ever later stages; k and b as in the paper."""

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0
    name: ClassVar[str] = "consistency"
    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True
    sampler: ClassVar[str] = "LCMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """The distance of the two images over that of the two times, from a random time for each of the batch."""
        assert batch.clean is not None
        process, count = lesson.process, len(batch.noise)
        time = torch.randint(process.times, (count,), generator=batch.random)
        with torch.no_grad():
            earlier = self._earlier(time, process, batch.done)
            near = process.noised(batch.clean, batch.noise, earlier)
            target = seen(process, lesson.student, near, earlier)
        clean = seen(process, lesson.student, process.noised(batch.clean, batch.noise, time), time)
        distance = (clean - target).flatten(1).square().sum(1).clamp(min=1e-12).sqrt()
        apart = _level(process)[time] - torch.where(earlier == CLEAN, 0.0, _level(process)[earlier.clamp(min=0)])
        yield (distance / apart.clamp(min=1e-3).to(distance)).mean() / clean[0].numel() ** 0.5

    def _earlier(self, time: Tensor, process: Process, done: float) -> Tensor:
        """At first far apart, near the end close together; CLEAN where nothing is between."""
        stage = min(self.stages - 1, int(done * self.stages))
        level = _level(process)
        share = 1 - self.q ** -(stage + 1) * (1 + self.k * torch.sigmoid(-self.b * level[time]))
        return torch.searchsorted(level, level[time] * share.clamp(min=0.0)) - 1


def _level(process: Process) -> Tensor:
    """Noise over image at every time, up to 80: the time that the schedule is stated in."""
    return (process.sigmas / process.alphas.clamp(min=1e-6)).clamp(max=80.0)

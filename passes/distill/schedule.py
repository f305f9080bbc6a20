"""Nothing is learned: only the times of the steps are chosen; see `compiler.time_schedule`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aquatint.compiler.distilling import Batch, Lesson
from aquatint.compiler.time_schedule import SUM


@dataclass(frozen=True)
class Schedule:
    """The first rung: seconds instead of minutes. norm: of the costs of steps, as `compiler.time_schedule` has it."""

    norm: float = SUM
    name: ClassVar[str] = "schedule"
    trains: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    sampler: ClassVar[str] = "DDIMScheduler"

    def losses(self, lesson: Lesson, batch: Batch) -> Iterator[Tensor]:
        """None."""
        return iter(())

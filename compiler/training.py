"""The loop that trains a student: a learning rate that ends at zero, checkpoints that a killed run goes on from, a time budget.

Every draw of an iteration is seeded by its number, so a run that is resumed ends with the bits of one that was not. Where
torchrun has started several processes, each draws a batch of its own, and all take the same steps.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aquatint.compiler.company import Company
from aquatint.compiler.errors import DistillError
from aquatint.compiler.trainable import Trainable

Losses = Callable[[int, float], Iterator[Tensor]]  # an iteration, and the share of the training before it
Watch = Callable[[int, float, float], None]  # an iteration, its loss, and the seconds that are left
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Schooling:
    """How a student is trained.

    iterations  of the whole training;  seconds: after which it stops early, those of runs before a kill included
    rate        of Adam, from which it falls to zero in a straight line;  clip: largest norm of a gradient
    averaged    of the weights that ship, how much they keep in each step (EMA); None ships the last ones
    every       iterations between two checkpoints
    precision   of products in training: "float32", or "bfloat16", which is faster where the machine multiplies it; weights
                and what is judged stay in float32
    """

    iterations: int = 300
    seconds: float | None = None
    rate: float = 2e-4
    clip: float = 1.0
    averaged: float | None = None
    every: int = 50
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise DistillError(f"no precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        if self.iterations < 1 or self.rate <= 0:
            raise DistillError(f"{self.iterations} iterations at a rate of {self.rate} train nothing")


@dataclass
class Progress:
    """Where a training is: what a checkpoint holds beside weights."""

    iteration: int = 0
    seconds: float = 0.0
    steps: int = 0
    loss: float = float("nan")


class School:
    """Trains `student` in place; `identity` says what a checkpoint is of, and one of something else is refused."""

    def __init__(self, student: Trainable, schooling: Schooling, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.student, self.schooling, self.folder = student, schooling, folder
        self.company = Company.here()
        together = {"processes": self.company.size} if self.company.size > 1 else {}
        own = {k: v for k, v in asdict(schooling).items() if k not in ("seconds", "every")}
        self.identity = {**identity, **together, **own}
        self.progress = Progress()
        self.optimizer = torch.optim.Adam(student.trained.parameters(), lr=schooling.rate)
        self.average = {n: t.clone() for n, t in student.state().items()} if schooling.averaged else None

    def run(self, losses: Losses, watch: Watch = lambda *_: None) -> dict[str, Tensor]:
        """The weights to ship. Raises DistillError when a loss is no number: with the last checkpoint, which is kept."""
        self._resume()
        if self.company.any(self.progress.iteration != self.company.first(self.progress.iteration)):
            raise DistillError(
                f"not all processes find the same checkpoint in {self.folder}: give a folder that all of them share"
            )
        schooling, progress = self.schooling, self.progress
        began, before = time.monotonic(), progress.seconds
        while progress.iteration < schooling.iterations:
            progress.seconds = before + time.monotonic() - began
            if schooling.seconds is not None and self.company.any(progress.seconds >= schooling.seconds):
                break
            done = progress.iteration / schooling.iterations
            progress.loss = self._iteration(losses, done)
            progress.iteration += 1
            left = (time.monotonic() - began) / max(1, progress.iteration) * (schooling.iterations - progress.iteration)
            budget = float("inf") if schooling.seconds is None else schooling.seconds - progress.seconds
            watch(progress.iteration, progress.loss, min(left, budget))
            if progress.iteration % schooling.every == 0:
                self._save()
        self._save()
        return self.student.state() if self.average is None else self.average

    def _iteration(self, losses: Losses, done: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schooling.rate * (1 - done)
        total, count = 0.0, 0
        for loss in losses(self.progress.iteration, done):
            mean = loss.detach().clone()
            self.company.average([mean])
            value = float(mean)
            if not math.isfinite(value):
                raise DistillError(self._stopped(value))
            self.optimizer.zero_grad()
            loss.backward()
            self.company.average([p.grad for p in self.student.trained.parameters() if p.grad is not None])
            torch.nn.utils.clip_grad_norm_(self.student.trained.parameters(), self.schooling.clip)
            self.optimizer.step()
            self.progress.steps += 1
            self._average()
            total, count = total + value, count + 1
        return total / max(1, count)

    def _average(self) -> None:
        if self.average is None or self.schooling.averaged is None:
            return
        for name, tensor in self.student.state().items():
            self.average[name].lerp_(tensor, 1 - self.schooling.averaged)

    def _stopped(self, loss: float) -> str:
        kept = "nothing was kept: give a folder" if self.folder is None else f"the last good state is in {self.folder}"
        return (
            f"the loss is {loss} at iteration {self.progress.iteration}; {kept}. "
            f"Try a lower rate than {self.schooling.rate:g}, or a lower clip than {self.schooling.clip:g}"
        )

    # Checkpoints: one file, replaced whole

    @property
    def _file(self) -> Path | None:
        return None if self.folder is None else self.folder / "training.safetensors"

    def _save(self) -> None:
        if self._file is None or self.folder is None or self.company.rank:
            return
        tensors = {f"student.{n}": t.contiguous() for n, t in self.student.state().items()}
        for i, parameter in enumerate(self.student.trained):
            kept = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{key}.{i}": torch.as_tensor(value).contiguous() for key, value in kept.items()}
        tensors |= {f"average.{n}": t.contiguous() for n, t in (self.average or {}).items()}
        about = {"identity": json.dumps(self.identity, sort_keys=True), "progress": json.dumps(asdict(self.progress))}
        unfinished = self._file.with_suffix(".unfinished")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, about)
            os.replace(unfinished, self._file)
        except (OSError, SafetensorError) as error:
            if unfinished.is_file():
                unfinished.unlink()
            raise DistillError(
                f"the checkpoint of iteration {self.progress.iteration} can't be written to {self.folder}: {error}; "
                "what was there before is still there"
            ) from error

    def _resume(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        with safe_open(self._file, "pt") as found:
            about = found.metadata()
            if about["identity"] != json.dumps(self.identity, sort_keys=True):
                raise DistillError(
                    f"{self._file} is of another training: {about['identity']}; give another folder, or remove it"
                )
            tensors = {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118  no mapping
        self.progress = Progress(**json.loads(about["progress"]))
        self.student.load({n: tensors[f"student.{n}"] for n in self.student.names})
        for i, parameter in enumerate(self.student.trained):
            keys = [k for k in tensors if k.startswith("adam.") and k.endswith(f".{i}")]
            if keys:
                kept = {k.split(".")[1]: tensors[k] for k in keys}
                self.optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in kept.items()}
        if self.average is not None:
            self.average = {n: tensors[f"average.{n}"].to(self.student.device) for n in self.average}

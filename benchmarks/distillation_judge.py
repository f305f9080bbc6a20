"""What students are judged by: distances of their images to the teacher's from the same noise, and to real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aquatint.checkpoint import Checkpoint
from aquatint.commands.demo import MODELS
from aquatint.compiler.distilling import solved
from aquatint.compiler.process import CLEAN, Process
from aquatint.quality import FeatureSpace
from aquatint.sampling import SamplingPlan, noise, sample, scheduler_from

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "distill"
SEED = 10_000  # of the noise that all are judged on; training never sees it


def conditions(name: str, count: int) -> dict[str, Tensor]:
    return {"class_labels": torch.arange(count) % 10} if "dit" in name else {}


def drawn(name: str, model: Any, sampler: Any, plan: SamplingPlan, images: int) -> Tensor:
    """Images from the judges' noise, by parts that fit the cache."""
    parts = []
    start, given = noise((1, 28, 28), images, SEED + plan.seed), conditions(name, images)
    for first in range(0, images, 64):
        here = {k: v[first : first + 64] for k, v in given.items()}
        labels = here.get("class_labels")
        parts.append(sample(model, sampler, start[first : first + 64], replace(plan, seed=plan.seed + first), labels))
    return torch.cat(parts)


class Judge:
    """Distances of images to the teacher's, and Fréchet distances to real ones; what was judged once is read from disk."""

    def __init__(self, name: str, teacher: Checkpoint, images: int) -> None:
        self.name, self.teacher, self.images = name, teacher, images
        self.space = FeatureSpace.load(MODELS / "fashion-classifier" / "classifier.safetensors")

    @cached_property
    def far(self) -> Tensor:
        file = FOLDER / self.name / "judged" / f"teacher, 50 of {self.images}.safetensors"
        if not file.is_file():
            images = drawn(self.name, self.teacher.model, even(self.teacher.scheduler), SamplingPlan(50), self.images)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"images": images}, file)
        return load_file(file)["images"]

    def of(self, model: Any, sampler: Any, plan: SamplingPlan, label: str) -> dict[str, float]:
        return self.kept(label, plan.steps, lambda: drawn(self.name, model, sampler, plan, self.images))

    def kept(self, label: str, steps: int, draw: Callable[[], Tensor]) -> dict[str, float]:
        file = FOLDER / self.name / "judged" / f"{label}, {steps} of {self.images}.json"
        if not file.is_file():
            seen = draw()
            found = {"Fréchet": self.space.distance(seen), "apart": float((seen - self.far).square().mean().sqrt())}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found))
        return json.loads(file.read_text())


def even(scheduler: Any, kind: str = "DDIMScheduler", **changed: Any) -> Any:
    return scheduler_from({**scheduler.config, "_class_name": kind, "clip_sample": False, **changed})


def aims(judge: Judge, model: Any) -> dict[str, float]:
    """The figures of what a student of sfd has learned from."""
    sampler, plan = drawn_by(model)
    plan.begin(sampler)
    stamps = sampler.timesteps.tolist()
    return judge.kept(f"aim of sfd at {stamps}", len(stamps), lambda: aimed(judge.name, judge.teacher, stamps, judge.images))


def drawn_by(model: Any) -> tuple[Any, SamplingPlan]:
    """The scheduler that a student carries, and its times."""
    return scheduler_from(model.program.sampler), SamplingPlan.of(model.program.sampler)


def aimed(name: str, teacher: Checkpoint, stamps: Sequence[int], images: int) -> Tensor:
    """Where a student comes to that has learned all that sfd teaches at these stamps: the teacher's solver between them."""
    process, parts = Process.of(teacher.scheduler), []
    start, given = noise((1, 28, 28), images, SEED), conditions(name, images)
    for first in range(0, images, 64):
        here = {k: v[first : first + 64] for k, v in given.items()}
        state = start[first : first + 64]
        for now, to in pairwise((*stamps, CLEAN)):
            with torch.no_grad():
                state = solved(process, partial(says, teacher.model, here), state, now, to, max(4, 16 // len(stamps)))
        parts.append(state)
    return torch.cat(parts)


def says(model: Any, given: dict[str, Tensor], state: Tensor, time: Tensor) -> Tensor:
    return model(state, time, **given).sample[:, :1]

"""Denoising from a seed: what `run`, the demo and the benchmarks do with a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.compiler.errors import InputError

# Of a student's scheduler configuration: what `set_timesteps` is called with, the times that it has tables for,
# and the guidance that it has learned.
PLAN = ("num_inference_steps", "timesteps", "sigmas", "tables", "guidance")

STEP_NOISE = 1 << 32  # its seeds lie apart from those of the noise that an image begins with


@dataclass(frozen=True)
class SamplingPlan:
    """steps of the scheduler; guidance: the weight of classifier-free guidance, 1 for none; seed of the first image.

    timesteps, sigmas: uneven ones of a student, instead of so many steps
    """

    steps: int = 20
    guidance: float = 1.0
    seed: int = 0
    timesteps: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None

    @staticmethod
    def of(config: Mapping[str, Any], steps: int | None = None, guidance: float = 1.0, seed: int = 0) -> SamplingPlan:
        """As a student's scheduler configuration says, unless `steps` are given; 20 where nobody says."""
        if steps is None and config.get("timesteps"):
            return SamplingPlan(len(config["timesteps"]), guidance, seed, tuple(config["timesteps"]))
        if steps is None and config.get("sigmas"):
            return SamplingPlan(len(config["sigmas"]), guidance, seed, sigmas=tuple(config["sigmas"]))
        return SamplingPlan(config.get("num_inference_steps", 20) if steps is None else steps, guidance, seed)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} steps draw nothing: it takes one at least")

    def begin(self, scheduler: Any) -> None:
        """Set the scheduler's times."""
        uneven = {name: list(v) for name in ("timesteps", "sigmas") if (v := getattr(self, name)) is not None}
        scheduler.set_timesteps(**(uneven or {"num_inference_steps": self.steps}))


def scheduler_from(config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler that wrote `config`; DDIM when it does not say."""
    import diffusers
    from diffusers.configuration_utils import ConfigMixin

    name = config.get("_class_name", "DDIMScheduler")
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin) and issubclass(kind, ConfigMixin)):
        raise InputError(f"{name!r} is no scheduler of this diffusers")
    return kind.from_config({k: v for k, v in config.items() if k not in PLAN})


def sampler_of(model: Any) -> Mapping[str, Any]:
    """The scheduler's configuration that a compressed model or a student carries; empty for others."""
    return getattr(getattr(model, "program", None), "sampler", None) or {}


def step_noise(scheduler: Any, count: int, seed: int) -> dict[str, Any]:
    """What `scheduler.step` takes to draw the noise that it adds, for each of `count` images from a seed of its own."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    return {"generator": [torch.Generator().manual_seed(STEP_NOISE + seed + i) for i in range(count)]}


def times_of(config: Mapping[str, Any]) -> list[float]:
    """What a student's scheduler, of this configuration, tells the model."""
    scheduler = scheduler_from(config)
    SamplingPlan.of(config).begin(scheduler)
    return [float(time) for time in scheduler.timesteps]


def check_times(config: Mapping[str, Any], times: Iterable[Any]) -> None:
    """InputError where a student with tables, of this scheduler configuration, is called at times that are not its own."""
    tables = config.get("tables") or ()
    wrong = [float(t) for t in times if tables and min(abs(float(t) - own) for own in tables) > 0.5]
    if wrong:
        known = ", ".join(f"{time:g}" for time in tables)
        raise InputError(
            f"this student has tables for the times {known}, and is called at {wrong[0]:g}: "
            "sample it with its own scheduler, in its own number of steps"
        )


def null_label(config: Mapping[str, Any]) -> int | None:
    """The label that stands for no class, of a model that was trained with one."""
    classes = config.get("num_embeds_ada_norm")
    return int(classes) if classes else None


def noise(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """(count, *shape): each image has its own seed, so that it does not depend on how many are drawn with it."""
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    return torch.stack(draws)


def sample(
    model: nn.Module | Callable[..., Any], scheduler: Any, start: Tensor, plan: SamplingPlan,
    labels: Tensor | None = None, null_label: int | None = None, extra: Mapping[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """Images (N, C, H, W) from noise `start`. With labels (N,) and guidance > 1, `null_label` stands for "any class"."""
    plan.begin(scheduler)
    check_times(sampler_of(model), scheduler.timesteps)
    images = start * getattr(scheduler, "init_noise_sigma", 1.0)
    guided = labels is not None and plan.guidance != 1.0 and null_label is not None
    given_labels = labels
    if guided and labels is not None:
        given_labels = torch.cat([labels, torch.full_like(labels, null_label or 0)])
    fresh = step_noise(scheduler, len(start), plan.seed)
    keywords = dict(extra or {}) | ({} if given_labels is None else {"class_labels": given_labels})
    with torch.no_grad():
        for time in scheduler.timesteps:
            given = scheduler.scale_model_input(images, time) if hasattr(scheduler, "scale_model_input") else images
            given = torch.cat([given, given]) if guided else given
            predicted = model(given, timestep=time.expand(len(given)), **keywords).sample
            if guided:
                wanted, plain = predicted.chunk(2)
                predicted = plain + plan.guidance * (wanted - plain)
            images = scheduler.step(predicted[:, : images.shape[1]], time, images, return_dict=False, **fresh)[0]
    return images


def grid(images: Tensor, columns: int, enlarge: int = 2) -> Any:
    """A PIL picture of `images` (N, C, H, W) in [-1, 1], side by side."""
    from PIL import Image

    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels = pixels[:, :1].expand(-1, 3, -1, -1) if pixels.shape[1] not in (3, 4) else pixels[:, :3]
    rows = -(-len(pixels) // columns)
    pixels = torch.cat([pixels, pixels.new_full((rows * columns - len(pixels), *pixels.shape[1:]), 255)])
    _, channels, height, width = pixels.shape
    sheet = pixels.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    picture = Image.fromarray(sheet.contiguous().numpy())
    return picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST)

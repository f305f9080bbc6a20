"""Calls of the model to learn from: recorded from the user's own run, or drawn from the model's own sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.compiler.capture import Example
from aquatint.compiler.errors import CalibrationError
from aquatint.sampling import SamplingPlan, sampler_of, scheduler_from, step_noise

DENOISERS = ("transformer", "unet", "prior", "dit")
PROMPTS = ("a photograph of a lighthouse at dusk", "a bowl of red apples on a wooden table, oil painting",
           "portrait of an old man with a grey beard", "a city street in the rain, neon lights")  # fmt: skip
STEPS = 20  # denoising steps of a calibration run
BATCH = 8


class Recorder:
    """Keeps up to `limit` calls of a module, spread evenly over all that are made, however many these are."""

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.model, self.limit = model, limit
        self.examples: list[Example] = []
        self._stride, self._seen = 1, 0

    def __enter__(self) -> Recorder:
        self._hook = self.model.register_forward_pre_hook(self._record, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _record(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._seen % self._stride == 0:
            self.examples.append(Example(_detached(args), _detached(kwargs)))
        self._seen += 1
        if len(self.examples) > self.limit:
            self.examples = self.examples[::2]
            self._stride *= 2


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _detached(v) for k, v in value.items()}
    return type(value)(_detached(v) for v in value) if isinstance(value, (list, tuple)) else value


def denoiser_of(pipeline: Any) -> tuple[str, nn.Module]:
    """The name and module of the part of a pipeline that denoises. Raises CalibrationError."""
    for name in DENOISERS:
        if isinstance(found := getattr(pipeline, name, None), nn.Module):
            return name, found
    raise CalibrationError(
        f"{type(pipeline).__name__} is no nn.Module and has no {', '.join(DENOISERS)}: give the module to compress"
    )


def pipeline_calibration(pipeline: Any, seed: int) -> Callable[[Any], object]:
    """A run of `pipeline` with built-in prompts or labels. Raises CalibrationError when it wants something else."""
    known: dict[str, Any] = {
        "prompt": list(PROMPTS), "class_labels": [0, 1, 2, 3], "batch_size": 4, "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    parameters = inspect.signature(pipeline.__call__).parameters.values()
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    if missing := [name for name in wanted if name not in known]:
        raise CalibrationError(f"{type(pipeline).__name__} needs {', '.join(missing)}: give calibrate=lambda pipe: pipe(...)")
    arguments = {p.name: known[p.name] for p in parameters if p.name in known}
    return lambda pipe: pipe(**arguments)


def default_calibration(model: nn.Module, sampler: Any, seed: int) -> Callable[[nn.Module], object]:
    """Sampling from noise over all time steps, for a model whose configuration tells its inputs' shapes.

    Without a `sampler`, a student is sampled at its own times, and for others diffusers' DDIM with its defaults is assumed.
    Raises CalibrationError for a model that it can't tell the inputs of.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    required = {p.name: p.default is p.empty and "VAR" not in p.kind.name for p in parameters}
    inputs = drawn_inputs(type(model).__name__, dict(getattr(model, "config", None) or {}), required, seed)

    def run(model: nn.Module) -> None:
        own = {} if sampler else sampler_of(model)
        scheduler = sampler or scheduler_from(own)
        SamplingPlan.of(own or {"num_inference_steps": STEPS}).begin(scheduler)
        image, fresh = next(iter(inputs)), step_noise(scheduler, BATCH, seed)
        noisy = inputs[image] * getattr(scheduler, "init_noise_sigma", 1.0)
        for time in scheduler.timesteps:
            given = scheduler.scale_model_input(noisy, time) if hasattr(scheduler, "scale_model_input") else noisy
            times = {"timestep": time.expand(BATCH)} if "timestep" in inputs else {}
            with torch.no_grad():
                out = model(**{**inputs, image: given, **times})
            if not times:
                return
            predicted = out if isinstance(out, Tensor) else out[0]
            noisy = scheduler.step(predicted[:, : noisy.shape[1]], time, noisy, return_dict=False, **fresh)[0]

    return run


def drawn_inputs(name: str, config: Mapping[str, Any], parameters: Mapping[str, bool], seed: int) -> dict[str, Tensor]:
    """Random inputs by the names and configuration fields that diffusers' models share; the noisy image first.

    `parameters`: of the model's forward, and whether each is required. Raises CalibrationError naming what is unknown.
    """
    random = torch.Generator().manual_seed(seed)
    image = next((p for p in ("sample", "hidden_states") if p in parameters), None)
    size, channels = config.get("sample_size"), config.get("in_channels")
    if image is None or size is None or channels is None:
        raise CalibrationError(
            f"the inputs of {name} can't be told from its configuration: "
            "give calibrate=lambda model: model(...), which calls it with inputs like those it will see"
        )
    height, width = (size, size) if isinstance(size, int) else size
    drawn = {image: torch.randn(BATCH, channels, height, width, generator=random)}
    if "timestep" in parameters:
        drawn["timestep"] = torch.zeros(BATCH, dtype=torch.long)
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    if "class_labels" in parameters and classes:
        drawn["class_labels"] = torch.randint(0, classes, (BATCH,), generator=random)
    text = next((config[k] for k in ("joint_attention_dim", "caption_channels", "cross_attention_dim") if config.get(k)), None)
    if "encoder_hidden_states" in parameters and isinstance(text, int):
        drawn["encoder_hidden_states"] = torch.randn(BATCH, 77, text, generator=random)
    if "pooled_projections" in parameters and config.get("pooled_projection_dim"):
        drawn["pooled_projections"] = torch.randn(BATCH, config["pooled_projection_dim"], generator=random)
    if missing := [p for p, required in parameters.items() if required and p not in drawn]:
        raise CalibrationError(f"{name} needs {', '.join(missing)}: give calibrate=lambda model: model(...)")
    return drawn

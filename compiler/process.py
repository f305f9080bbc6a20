"""What a diffusion model's numbers mean: every parameterisation as one, so that a loss is written once.

A state at time t is x_t = alpha_t x + sigma_t e, of an image x and noise e. A model says one of x, e, or a mixture of both;
`Process.split` gives both. Salimans & Ho 2022 (arXiv 2202.00512), appendix D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.errors import DistillError

CLEAN = -1  # the time behind the last step, where nothing is noise
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
SMALLEST = 1e-4  # of an alpha or sigma that is divided by


@dataclass(frozen=True)
class Process:
    """alphas, sigmas: (T,) by time, from nearly clean to nearly noise; prediction: what the model says, one of PREDICTIONS.

    told: (T,) what the model is told of each time: its number, or with flow matching 1000 times its sigma
    """

    alphas: Tensor
    sigmas: Tensor
    prediction: str
    told: Tensor

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise DistillError(f"a model that predicts {self.prediction!r} is not known; known: {', '.join(PREDICTIONS)}")

    @staticmethod
    def of(scheduler: Any) -> Process:
        """Of a diffusers scheduler; DistillError for one whose times are not known."""
        config: Mapping[str, Any] = scheduler.config
        if type(scheduler).__name__.startswith("FlowMatch"):
            return Process._of_flow(config)
        if not hasattr(scheduler, "alphas_cumprod") or config.get("use_flow_sigmas"):
            raise DistillError(
                f"{type(scheduler).__name__} has no alphas_cumprod; "
                "for a model of flow matching give a FlowMatchEulerDiscreteScheduler"
            )
        squared = scheduler.alphas_cumprod.double()
        alphas, sigmas = squared.sqrt().float(), (1 - squared).sqrt().float()
        return Process(alphas, sigmas, config.get("prediction_type", "epsilon"), torch.arange(len(alphas)))

    @staticmethod
    def _of_flow(config: Mapping[str, Any]) -> Process:
        """x_t = (1 - sigma) x + sigma e, and the model says e - x (arXiv 2210.02747); `shift` as in SD3 (arXiv 2403.03206)."""
        odd = [k for k in ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                           "invert_sigmas", "shift_terminal") if config.get(k)]  # fmt: skip
        if odd:
            raise DistillError(
                f"a scheduler with {', '.join(odd)} has no times of its own: give one without, with the shift of your image "
                "size (for an exponential dynamic shift of mu that is e^mu)"
            )
        times, shift = int(config["num_train_timesteps"]), float(config.get("shift") or 1.0)
        even = torch.arange(1, times + 1, dtype=torch.float64) / times
        sigmas = shift * even / (1 + (shift - 1) * even)
        return Process((1 - sigmas).float(), sigmas.float(), "flow_prediction", (sigmas * times).float())

    @property
    def is_flow(self) -> bool:
        return self.prediction == "flow_prediction"

    @property
    def times(self) -> int:
        return len(self.alphas)

    def at(self, time: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times (N,) or at one for all, in a shape that multiplies states (N, ...)."""
        times = torch.as_tensor(time).expand(len(like))
        clean = times < 0
        alpha = torch.where(clean, 1.0, self.alphas[times.clamp(min=0)])
        sigma = torch.where(clean, 0.0, self.sigmas[times.clamp(min=0)])
        shape = (-1, *[1] * (like.dim() - 1))
        return alpha.view(shape).to(like), sigma.view(shape).to(like)

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor | int) -> Tensor:
        """The state at `time` of an image and noise: also a step of DDIM (arXiv 2010.02502, equation 12, eta 0) to it."""
        alpha, sigma = self.at(time, clean)
        return alpha * clean + sigma * noise

    def split(self, state: Tensor, said: Tensor, time: Tensor | int) -> tuple[Tensor, Tensor]:
        """(image, noise) that the model's word `said` on `state` at `time` comes to."""
        alpha, sigma = self.at(time, state)
        if self.prediction == "epsilon":
            return (state - sigma * said) / alpha.clamp(min=SMALLEST), said
        if self.prediction == "sample":
            return said, (state - alpha * said) / sigma.clamp(min=SMALLEST)
        if self.is_flow:
            return state - sigma * said, state + alpha * said
        return alpha * state - sigma * said, sigma * state + alpha * said

    def moved(self, state: Tensor, said: Tensor, time: Tensor | int, to: Tensor | int) -> Tensor:
        """The state at `to`, one step of DDIM from `state` at `time`."""
        return self.noised(*self.split(state, said, time), to)

    def log_snr(self, time: Tensor) -> Tensor:
        """log(alpha / sigma), half the logarithm of the signal-to-noise ratio."""
        return (self.alphas[time].clamp(min=SMALLEST) / self.sigmas[time].clamp(min=SMALLEST)).log()

    def stamps(self, steps: int) -> list[int]:
        """`steps` times at even distances from the noisiest on, as diffusers' "trailing" spacing has them."""
        return [round(self.times - i * self.times / steps) - 1 for i in range(steps)]


def check_prediction(process: Process, state: Tensor, said: Tensor) -> None:
    """Does what a model says of pure noise fit what its scheduler says that it predicts? DistillError if not."""
    alike = torch.nn.functional.cosine_similarity(said.flatten(1), state.flatten(1)).mean().item()
    if process.prediction == "epsilon" and alike < 0.5:
        raise DistillError(
            f"the scheduler says that the model predicts epsilon, but of pure noise it says something else "
            f"(cosine {alike:.2f}): "
            "look at prediction_type in scheduler_config.json"
        )
    if process.prediction in ("v_prediction", "sample") and alike > 0.9:
        raise DistillError(
            f"the scheduler says that the model predicts {process.prediction}, but of pure noise it says that noise "
            f"(cosine {alike:.2f}), as for epsilon: look at prediction_type in scheduler_config.json"
        )

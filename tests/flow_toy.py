"""A toy whose flow is known exactly: images of two numbers, spread as a Gaussian; and a small network that can learn."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

import aquatint
from aquatint.compiler.distilling import ddim
from aquatint.compiler.process import Process
from aquatint.compiler.training import Schooling
from aquatint.sampling import sampler_of

MEAN, SPREAD = torch.tensor([0.6, -0.3]).view(2, 1, 1), torch.tensor([0.5, 0.1]).view(2, 1, 1)


class Exact(nn.Module):
    """The exact denoiser of that Gaussian, as a gain and an offset for each time: weights that a student can change."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        process = Process.of(scheduler)
        alpha, sigma = process.alphas.view(-1, 1, 1, 1), process.sigmas.view(-1, 1, 1, 1)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)  # E[x | x_t] = mean + gain (x_t - alpha mean)
        offset = MEAN - gain * alpha * MEAN
        clean = {"sample": (gain, offset), "v_prediction": ((alpha - gain) / sigma, -offset / sigma)}
        clean["epsilon"] = ((1 - alpha * gain) / sigma, -alpha * offset / sigma)
        clean["flow_prediction"] = ((1 - gain) / sigma, -offset / sigma)
        self.first = int(process.told[0])
        self.gain, self.offset = (nn.Parameter(t.clone()) for t in clean[process.prediction])

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        place = timestep.long() - self.first
        return self.gain[place] * sample + self.offset[place]


def scheduler(prediction: str = "v_prediction") -> Any:
    if prediction == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )


def called(model: nn.Module) -> None:
    model(torch.randn(2, 2, 1, 1), torch.tensor([3, 400]))


def called_in_flow(model: nn.Module) -> None:
    model(torch.randn(2, 2, 1, 1), torch.tensor([3.0, 400.0]))


def distilled(method: Any, steps: int, prediction: str = "v_prediction", **options: Any) -> Any:
    plan = scheduler(prediction)
    random = torch.Generator().manual_seed(5)
    data = MEAN + SPREAD * torch.randn(4096, 2, 1, 1, generator=random)
    schooling = options.pop("schooling", Schooling(iterations=300, rate=2e-2, clip=10.0))
    calls = called_in_flow if prediction == "flow_prediction" else called
    return aquatint.distill(
        Exact(plan), plan, method, steps, data=data, calibrate=calls, batch=128, schooling=schooling, **options
    )


def flowed(noise: Tensor, process: Process) -> Tensor:
    """Where the exact flow takes noise: quantile to quantile."""
    alpha, sigma = process.alphas[-1], process.sigmas[-1]
    return MEAN + SPREAD * (noise - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2).sqrt()


def own_stamps(model: Any, process: Process, steps: int) -> list[int]:
    """A student's own times, or even ones."""
    sampler = sampler_of(model)
    uneven = sampler.get("timesteps") or [round(sigma * process.times) - 1 for sigma in sampler.get("sigmas", ())]
    return list(uneven) or process.stamps(steps)


def error(model: Any, steps: int, prediction: str = "v_prediction") -> float:
    process = Process.of(scheduler(prediction))
    noise = torch.randn(512, 2, 1, 1, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        drawn = ddim(process, lambda x, t: model(x, process.told[t]), noise, own_stamps(model, process, steps))
    return float((drawn - flowed(noise, process)).square().mean().sqrt())


class Small(nn.Module):
    """Nothing that was trained; but a student can learn where its steps lead."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        self.first, self.time, self.inner, self.last = (nn.Linear(*s) for s in ((2, 512), (1, 512), (512, 512), (512, 2)))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=random)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        inner = self.first(sample.flatten(1)) + self.time(timestep.view(-1, 1) / 500 - 1)
        return self.last(nn.functional.silu(self.inner(nn.functional.silu(inner)))).view(-1, 2, 1, 1)

"""A whole diffusers pipeline: its denoiser is found, calibrated by running it, compressed and put in place."""

from __future__ import annotations

import pytest
import torch

import aquatint
from aquatint.calibrate import Recorder
from aquatint.compiler.errors import CalibrationError
from aquatint.compiler.module import CompressedModule

from .zoo import build


def ddim():
    from diffusers import DDIMPipeline, DDIMScheduler

    model, _ = build("unet2d")
    pipe = DDIMPipeline(unet=model, scheduler=DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe) -> torch.Tensor:
    out = pipe(batch_size=2, num_inference_steps=3, generator=torch.Generator().manual_seed(1), output_type="np")
    return torch.from_numpy(out.images)


def test_a_stock_pipeline_runs_on() -> None:
    pipe = ddim()
    before = images(pipe)
    same = aquatint.optimize(pipe, "svdq-w4a8-r32", calls=3)
    assert same is pipe
    assert isinstance(pipe.unet, CompressedModule)
    after = images(pipe)
    assert after.shape == before.shape
    assert 0 < (after - before).abs().mean() < 0.05
    assert pipe.unet.program.sampler["_class_name"] == "DDIMScheduler"


def test_a_pipeline_that_wants_what_nobody_knows() -> None:
    class Odd:
        transformer = torch.nn.Linear(2, 2)

        def __call__(self, depth_map: object) -> None:
            raise AssertionError

    with pytest.raises(CalibrationError, match="Odd needs depth_map"):
        aquatint.optimize(Odd())


def test_the_model_is_sampled_when_nobody_says_how() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    for name, sampler in (("dit", None), ("sd3", FlowMatchEulerDiscreteScheduler()), ("unet2d", None)):
        model, _ = build(name)
        small = aquatint.optimize(model, "w8a16", sampler=sampler, calls=2)
        assert any(row["treatment"] for row in small.report["sites"])


def test_calls_are_spread_evenly() -> None:
    model = torch.nn.Linear(1, 1)
    with Recorder(model, 4) as recorder:
        for i in range(23):
            model(torch.full((1, 1), float(i)))
    times = [e.args[0].item() for e in recorder.examples]
    assert times == [0.0, 8.0, 16.0]
    assert not model._forward_pre_hooks

"""Each example runs."""

from __future__ import annotations

import gzip
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_compress_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "compress_your_own.py"), run_name="__main__")
    assert "times smaller" in capsys.readouterr().out


def test_edit_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "edit.png"
    monkeypatch.setattr(sys, "argv", ["edit", "--steps", "6", "-o", str(picture)])
    runpy.run_path(str(EXAMPLES / "edit_an_image.py"), run_name="__main__")
    assert picture.is_file()
    assert "of the multiply-adds" in capsys.readouterr().out


def test_inpaint_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "inpaint.png"
    monkeypatch.setattr(sys, "argv", ["inpaint", "--steps", "6", "-o", str(picture)])
    runpy.run_path(str(EXAMPLES / "inpaint_an_image.py"), run_name="__main__")
    assert picture.is_file()
    assert "is drawn again" in capsys.readouterr().out


def test_training_resumes_as_the_very_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps at once, and two and two, give the same weights."""
    pixels = torch.randint(0, 256, (64, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for split in ("train", "t10k"):
        with gzip.open(tmp_path / f"{split}-images-idx3-ubyte.gz", "wb") as stream:
            stream.write(struct.pack(">4i", 2051, 64, 28, 28) + pixels.numpy().tobytes())
        with gzip.open(tmp_path / f"{split}-labels-idx1-ubyte.gz", "wb") as stream:
            stream.write(struct.pack(">2i", 2049, 64) + bytes(i % 10 for i in range(64)))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["train"])
    import train_fashion_mnist as script

    images, labels = script.read_images(tmp_path, "train")
    assert images.shape == (64, 1, 28, 28)
    run = script.Run("classifier", steps=4, batch=8, rate=1e-3, seed=5)
    whole = script.train(run, images, labels, tmp_path / "whole.pt")
    half = script.train(run, images, labels, tmp_path / "half.pt", until=2)
    assert not torch.equal(half.dense.weight, whole.dense.weight)
    resumed = script.train(run, images, labels, tmp_path / "half.pt")
    for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("spacing", "offset", "predicts", "schedule"), [
    ("trailing", 0, "v_prediction", "squaredcos_cap_v2"), ("leading", 1, "epsilon", "scaled_linear"),
    ("linspace", 0, "sample", "linear"),
])  # fmt: skip
def test_numpy_sampler_steps_as_diffusers_does(
    spacing: str, offset: int, predicts: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDIMScheduler

    monkeypatch.syspath_prepend(str(EXAMPLES))
    import numpy_sampler as script

    theirs = DDIMScheduler(
        beta_schedule=schedule, prediction_type=predicts, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=False
    )
    theirs.set_timesteps(7)
    ours = script.Ddim.of(theirs.config)
    assert ours.times(7) == theirs.timesteps.tolist()
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 6, 6, generator=random)
    mine = images.numpy()
    for time in theirs.timesteps:
        predicted = torch.randn(2, 1, 6, 6, generator=random)
        images = theirs.step(predicted, time, images, return_dict=False)[0]
        mine = ours.step(predicted.numpy(), int(time), 1000 // 7, mine)
        assert torch.allclose(torch.from_numpy(mine), images, atol=1e-4)


def test_numpy_sampler_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aquatint
    from aquatint.checkpoint import open_checkpoint

    found = open_checkpoint(EXAMPLES / "models" / "fashion-dit")
    times, labels = torch.tensor([500, 20]), torch.tensor([3, 10])
    small = aquatint.optimize(
        found.model, "w8a16", lambda m: m(torch.randn(2, 1, 28, 28), times, labels), sampler=found.scheduler
    )
    aquatint.export_onnx(small, tmp_path / "dit")
    aquatint.export_plate(small, tmp_path / "dit.plate")
    drawn = {}
    for model, count in (("dit", ["--count", "1"]), ("dit.plate", [])):
        picture = tmp_path / f"{model}.png"
        arguments = ["sampler", str(tmp_path / model), "-o", str(picture), "--steps", "2", "--guidance", "2", *count]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(EXAMPLES / "numpy_sampler.py"), run_name="__main__")
        drawn[model] = np.asarray(Image.open(picture)).astype(int)
    assert np.abs(drawn["dit"] - drawn["dit.plate"]).mean() < 2  # the file's weights round otherwise
    assert drawn["dit"].std() > 20


@pytest.mark.parametrize(("folder", "component"), [("fashion-dit", "transformer"), ("fashion-unet", "unet")])
def test_shipped_models_open_with_diffusers(folder: str, component: str) -> None:
    import diffusers

    from aquatint.checkpoint import open_checkpoint

    kind = {"transformer": diffusers.DiTTransformer2DModel, "unet": diffusers.UNet2DModel}[component]
    theirs = kind.from_pretrained(EXAMPLES / "models" / folder / component, torch_dtype=torch.float32)
    ours = open_checkpoint(EXAMPLES / "models" / folder)
    assert ours.scheduler is not None
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name])


def test_the_shipped_unet_runs_in_a_stock_pipeline() -> None:
    from diffusers import DDIMPipeline

    import aquatint

    pipe = DDIMPipeline.from_pretrained(EXAMPLES / "models" / "fashion-unet", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    aquatint.optimize(pipe, "w8a16", lambda p: p(batch_size=2, num_inference_steps=2), calls=2)
    assert pipe(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)

"""Each example runs."""

from __future__ import annotations

import gzip
import runpy
import struct
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_compress_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "compress_your_own.py"), run_name="__main__")
    assert "times smaller" in capsys.readouterr().out


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

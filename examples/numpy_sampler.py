"""Draw images with an exported denoiser: numpy, and onnxruntime or the kernels of a plate. There is no torch in this process.

    python -m aquatint compile examples/models/fashion-dit -o dit.aq
    python -m aquatint export dit.aq -o dit-onnx
    python examples/numpy_sampler.py dit-onnx -o images.png --guidance 2
    python -m aquatint export dit.aq -o dit.plate --target plate --size batch=20
    python examples/numpy_sampler.py dit.plate -o images.png --guidance 2

A folder holds a denoiser (transformer/ or unet/: model.onnx, config.json) and scheduler/scheduler_config.json; a plate is one
file, made for one number of images. Steps are those of DDIM without noise (arXiv 2010.02502, equation 12), as diffusers'
DDIMScheduler takes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ddim:
    """How much of the signal is left at every time step, alphas (T,), and what the denoiser predicts."""

    alphas: np.ndarray
    predicts: str
    spacing: str
    offset: int
    last: float
    clip: float | None

    @staticmethod
    def of(config: Mapping[str, Any]) -> Ddim:
        """From the configuration that diffusers writes. Raises ValueError for a schedule or prediction not known here."""
        if not config:
            raise ValueError("this model was compiled without its scheduler")
        steps, low, high = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
        schedule, predicts = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
        if schedule not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            raise ValueError(f"no beta schedule {schedule!r} here")
        if predicts not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"no prediction type {predicts!r} here")
        betas = np.linspace(low, high, steps, dtype=np.float32)
        if schedule == "scaled_linear":
            betas = np.linspace(low**0.5, high**0.5, steps, dtype=np.float32) ** 2
        if schedule == "squaredcos_cap_v2":
            signal = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999).astype(np.float32)
        alphas = np.cumprod(1 - betas, dtype=np.float32)
        clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
        last = 1.0 if config.get("set_alpha_to_one", True) else float(alphas[0])
        return Ddim(alphas, predicts, config.get("timestep_spacing", "leading"), config.get("steps_offset", 0), last, clip)

    def times(self, steps: int) -> list[int]:
        """The time steps to visit, from noise to image."""
        total = len(self.alphas)
        if self.spacing == "linspace":
            return np.linspace(0, total - 1, steps).round()[::-1].astype(int).tolist()
        if self.spacing == "trailing":
            return (np.round(np.arange(total, 0, -total / steps)) - 1).astype(int).tolist()
        return ((np.arange(steps) * (total // steps))[::-1] + self.offset).astype(int).tolist()

    def step(self, predicted: np.ndarray, time: int, stride: int, noisy: np.ndarray) -> np.ndarray:
        """The images one step nearer: `stride` time steps before `time`."""
        here = self.alphas[time]
        there = self.alphas[time - stride] if time >= stride else np.float32(self.last)
        signal, noise = np.sqrt(here), np.sqrt(1 - here)
        if self.predicts == "epsilon":
            image, left = (noisy - noise * predicted) / signal, predicted
        elif self.predicts == "sample":
            image, left = predicted, (noisy - signal * predicted) / noise
        else:
            image, left = signal * noisy - noise * predicted, signal * predicted + noise * noisy
        image = image if self.clip is None else image.clip(-self.clip, self.clip)
        return np.sqrt(there) * image + np.sqrt(1 - there) * left


@dataclass(frozen=True)
class Denoiser:
    """An exported model: called with images (N, C, H, W), one time, and labels (N,) if it takes any.

    run     from inputs by name to the prediction;  inputs  their names and sizes
    batch   how many images it takes in a call, where that is fixed
    """

    run: Callable[[dict[str, Any]], np.ndarray]
    inputs: Mapping[str, tuple[Any, ...]]
    config: Mapping[str, Any]
    schedule: Ddim
    batch: int | None = None

    @staticmethod
    def open(path: Path, threads: int = 0) -> Denoiser:
        """What `aquatint export` wrote. Raises FileNotFoundError naming what is missing."""
        return Denoiser.of_plate(path, threads) if path.is_file() else Denoiser.of_onnx(path, threads)

    @staticmethod
    def of_plate(path: Path, threads: int) -> Denoiser:
        import aquatint

        plate = aquatint.Plate(path, threads or None)
        inputs = {i.name: i.shape for i in plate.inputs}
        batch = plate.inputs[0].shape[0]
        schedule = Ddim.of(plate.sampler or {})
        return Denoiser(lambda feed: plate(**feed)[plate.outputs[0]], inputs, plate.config, schedule, batch)

    @staticmethod
    def of_onnx(folder: Path, threads: int) -> Denoiser:
        import onnxruntime as ort

        parts = [folder / name for name in ("transformer", "unet", "model") if (folder / name / "model.onnx").is_file()]
        if not parts:
            raise FileNotFoundError(f"{folder} holds no transformer/model.onnx or unet/model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(parts[0] / "model.onnx", options, providers=["CPUExecutionProvider"])
        config = json.loads((parts[0] / "config.json").read_text())
        schedule = Ddim.of(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()))
        inputs = {i.name: tuple(i.shape) for i in session.get_inputs()}
        return Denoiser(lambda feed: session.run(None, feed)[0], inputs, config, schedule)

    def __call__(self, images: np.ndarray, time: int, labels: np.ndarray | None) -> np.ndarray:
        given = {"timestep": np.full(len(images), time, np.int64), "class_labels": labels}
        feed = {name: given.get(name, images) for name in self.inputs}
        feed |= {name: feed[name][0] for name, shape in self.inputs.items() if not shape}  # one time for the whole batch
        return self.run(feed)

    @property
    def classes(self) -> int | None:
        """How many labels there are; the number itself stands for "any of them"."""
        return self.config.get("num_embeds_ada_norm") or self.config.get("num_class_embeds")

    def sample(self, noise: np.ndarray, steps: int, labels: np.ndarray | None = None, guidance: float = 1.0) -> np.ndarray:
        """Images (N, C, H, W) in [-1, 1] from `noise`, with classifier-free guidance (arXiv 2207.12598) where it is not 1."""
        guided = labels is not None and guidance != 1.0
        if guided and labels is not None:
            labels = np.concatenate([labels, np.full_like(labels, self.classes)])
        images, stride = noise, len(self.schedule.alphas) // steps
        for time in self.schedule.times(steps):
            predicted = self(np.concatenate([images, images]) if guided else images, time, labels)
            if guided:
                wanted, plain = np.split(predicted, 2)
                predicted = plain + np.float32(guidance) * (wanted - plain)
            images = self.schedule.step(predicted[:, : images.shape[1]], time, stride, images)
        return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder with an ONNX file, or a plate")
    parser.add_argument("-o", "--output", type=Path, default=Path("images.png"))
    parser.add_argument("--count", type=int, help="how many (default: 10, or as many as the plate was made for)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    denoiser = Denoiser.open(options.model)
    size, channels = denoiser.config["sample_size"], denoiser.config["in_channels"]
    twice = denoiser.classes and options.guidance != 1.0  # with the label and without
    if twice and denoiser.batch and denoiser.batch % 2:
        parser.error(f"{options.model} takes {denoiser.batch} at once; guidance needs two for each image")
    count = options.count or (denoiser.batch or 10) // (2 if twice and denoiser.batch else 1)
    noise = np.random.default_rng(options.seed).standard_normal((count, channels, size, size), np.float32)
    labels = np.arange(count) % denoiser.classes if denoiser.classes else None
    images = denoiser.sample(noise, options.steps, labels, options.guidance)
    save(images, options.output)
    print(f"{options.output}: {count} images, {options.steps} steps")


def save(images: np.ndarray, path: Path) -> None:
    """One row of images (N, C, H, W) in [-1, 1], enlarged twice."""
    from PIL import Image

    row = np.concatenate(list(((images.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)), axis=2)
    picture = Image.fromarray(row[0] if len(row) == 1 else row[:3].transpose(1, 2, 0))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()

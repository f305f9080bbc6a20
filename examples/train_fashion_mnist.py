"""Train the models that this repository ships, on Fashion-MNIST.

    python examples/train_fashion_mnist.py classifier       # features for the Fréchet distance
    python examples/train_fashion_mnist.py dit
    python examples/train_fashion_mnist.py unet

Data: Debian's `dataset-fashion-mnist` (MIT licence), or `--data DIR` with the same four `.gz` files. Each command
resumes from `build/train/NAME.pt`, is seeded step by step (a resumed run continues the very same run), uses a GPU if
there is one, and writes fp16 safetensors into `examples/models/fashion-NAME` when it ends.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

MODELS = Path(__file__).parent / "models"
DEBIAN_DATA = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
SCHEDULER = DDIMScheduler(
    beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=True
)


@dataclass(frozen=True)
class Run:
    """What one training run is: everything that the result depends on."""

    name: str
    steps: int
    batch: int
    rate: float
    seed: int


def read_images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [-1, 1] and labels (N,) of `split` ("train" or "t10k"), from IDX files."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: apt-get install dataset-fashion-mnist, or give --data DIR")
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as stream:
        pixels = torch.frombuffer(bytearray(stream.read()[16:]), dtype=torch.uint8).view(-1, 1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as stream:
        labels = torch.frombuffer(bytearray(stream.read()[8:]), dtype=torch.uint8)
    return pixels.float() / 127.5 - 1, labels.long()


def build(name: str) -> nn.Module:
    """The untrained network of one run."""
    if name == "classifier":
        from aquatint.quality import FeatureNet

        return FeatureNet()
    if name == "dit":
        model = DiTTransformer2DModel(
            sample_size=28, in_channels=1, out_channels=1, patch_size=4, num_layers=4,
            num_attention_heads=4, attention_head_dim=64, num_embeds_ada_norm=CLASSES,
        )  # fmt: skip
        for block in model.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # would drop in each block apart; see `diffusion_loss`
            nn.init.zeros_(block.norm1.linear.weight)  # adaLN-Zero, Peebles & Xie 2023
            nn.init.zeros_(block.norm1.linear.bias)
        nn.init.zeros_(model.proj_out_2.weight)
        nn.init.zeros_(model.proj_out_2.bias)
        return model
    return UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(64, 64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=64,
    )  # fmt: skip


def diffusion_loss(model: nn.Module, images: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity; one label in ten is dropped, for classifier-free guidance."""
    noise = torch.randn(images.shape, generator=random)
    times = torch.randint(0, 1000, (len(images),), generator=random)
    dropped = torch.rand(len(images), generator=random) < 0.1
    labels = torch.where(dropped, CLASSES, labels)
    device = next(model.parameters()).device
    images, noise, times, labels = (t.to(device) for t in (images, noise, times, labels))
    noisy = SCHEDULER.add_noise(images, noise, times)
    inputs = (noisy, times, labels) if isinstance(model, DiTTransformer2DModel) else (noisy, times)
    return F.mse_loss(model(*inputs).sample, SCHEDULER.get_velocity(images, noise, times))


def classifier_loss(model: nn.Module, images: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    device = next(model.parameters()).device
    shift = torch.randint(-2, 3, (2,), generator=random).tolist()
    return F.cross_entropy(model(torch.roll(images, shift, (2, 3)).to(device)), labels.to(device))


def learning_rate(run: Run, step: int) -> float:
    """Linear warm-up over 200 steps, then a cosine down to a hundredth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / run.steps))
    return run.rate * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * cosine)


def train(run: Run, images: Tensor, labels: Tensor, state_file: Path, until: int | None = None) -> nn.Module:
    """Train to `run.steps`, from `state_file` if it is there, and return the averaged (EMA) model on the CPU.

    `until` breaks off at an earlier step, as an interruption would, with the state saved.
    """
    last = min(until or run.steps, run.steps)
    torch.manual_seed(run.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(run.name).to(device).train()
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), run.rate, weight_decay=0.01, fused=True)
    step = 0
    if state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
    loss_of = classifier_loss if run.name == "classifier" else diffusion_loss
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task(run.name, total=run.steps, completed=step)
        running = math.nan
        while step < last:
            random = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
            chosen = torch.randint(0, len(images), (run.batch,), generator=random)
            loss = loss_of(model, images[chosen], labels[chosen], random)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run, step)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            decay = min(0.998, step / (step + 10))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay) if value.is_floating_point() else average[name].copy_(value)
            running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
            progress.update(task, completed=step, description=f"{run.name} loss {running:.4f}")
            if step % 100 == 0 or step == last:
                save_state(state_file, model, optimizer, average, step)
                print(f"{run.name} step {step} loss {running:.4f}", flush=True)
    model.load_state_dict(average)
    return model.cpu().eval()


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def export_classifier(model: nn.Module, data: Path) -> None:
    """Weights, and the mean and covariance of its features over the test images, which the demo compares with."""
    images, labels = read_images(data, "t10k")
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in images.split(500)]).double()
        accuracy = (torch.cat([model(part) for part in images.split(500)]).argmax(1) == labels).double().mean().item()
    folder = MODELS / "fashion-classifier"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    weights |= {"reference.mean": features.mean(0).float(), "reference.covariance": features.T.cov().float()}
    save_file(weights, folder / "classifier.safetensors")
    print(f"test accuracy {accuracy:.4f}")


def export_diffusion(run: Run, model: nn.Module) -> None:
    """A diffusers folder, with its scheduler; for the U-Net one that `DDIMPipeline.from_pretrained` opens."""
    folder = MODELS / f"fashion-{run.name}"
    component = "transformer" if run.name == "dit" else "unet"
    model.half().save_pretrained(folder / component)
    SCHEDULER.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    if component == "unet":
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


RUNS = {
    "classifier": Run("classifier", steps=2000, batch=128, rate=1e-3, seed=1),
    "dit": Run("dit", steps=3600, batch=64, rate=1e-3, seed=2),
    "unet": Run("unet", steps=3000, batch=32, rate=5e-4, seed=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--steps", type=int, help="override the number of steps")
    parser.add_argument("--data", type=Path, default=DEBIAN_DATA)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = RUNS[options.name]
    if options.steps:
        run = Run(run.name, options.steps, run.batch, run.rate, run.seed)
    images, labels = read_images(options.data, "train")
    model = train(run, images, labels, Path("build/train") / f"{run.name}.pt")
    if run.name == "classifier":
        export_classifier(model, options.data)
    else:
        export_diffusion(run, model)


if __name__ == "__main__":
    main()

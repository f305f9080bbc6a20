"""Run by test_stock_pipeline.py where optimum is installed: a small pipeline, compressed, written, and sampled by it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from optimum.onnxruntime import ORTDiffusionPipeline  # noqa: E402  # pyright: ignore[reportMissingImports]
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402  # pyright: ignore[reportMissingImports]

import aquatint  # noqa: E402


def tokenizer(folder: Path) -> CLIPTokenizer:
    """One token a letter."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{c}</w>" for c in letters]]
    (folder / "vocab.json").write_text("{" + ", ".join(f'"{w}": {i}' for i, w in enumerate(words)) + "}")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(folder / "vocab.json", folder / "merges.txt", model_max_length=16)


def pipeline(folder: Path) -> StableDiffusionPipeline:
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=54, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, beta_schedule="scaled_linear")
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text.eval(), tokenizer=tokenizer(folder), unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # type: ignore[arg-type] # fmt: skip


def draw(pipe: StableDiffusionPipeline) -> np.ndarray:
    """Latents, so that the comparison is of the denoiser and the text encoder; and the picture that is decoded of them."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "latents": latents}
    return pipe("a small cat", output_type="np", **options).images  # type: ignore[operator]


def main(folder: Path) -> None:
    pipe = pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    exact = draw(pipe)
    aquatint.optimize(pipe, "svdq-w4a8-r32", lambda p: draw(p), calls=4)
    ours = draw(pipe)
    written = aquatint.export_pipeline(pipe, folder / "onnx")
    stock = ORTDiffusionPipeline.from_pretrained(folder / "onnx")
    stock.set_progress_bar_config(disable=True)
    theirs = draw(stock)
    print(type(stock).__name__, sorted(written), f"stock {decibel(theirs, exact):.1f} ours {decibel(ours, exact):.1f}")


def decibel(image: np.ndarray, reference: np.ndarray) -> float:
    return float(-10 * np.log10(((image - reference) ** 2).mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

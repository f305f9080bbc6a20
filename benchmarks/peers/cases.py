"""What every contender runs: modules with fixed random weights, or the models that are shipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

LINEARS = ((1024, 1152, 4608), (1024, 4608, 1152), (256, 1152, 1152), (4096, 1024, 1024))
CONVOLUTIONS = ((320, 32), (640, 16))
MLPS = ((256, 1152, 4608), (1024, 1152, 4608))
ATTENTIONS = ((1024, 16, 72), (4096, 8, 40))  # tokens, heads, width of a head: of a DiT-XL/2 at 512 pixels, and of SD 1.5
SCALED_TOKENS, SCALED_WIDTHS = (256, 576, 1024, 2304, 4096), (576, 1152, 1728, 2304)
SCALED = (
    "torch fp32",
    "OpenVINO u4",
    "onnxruntime dynamic int8",
    "aquatint W4A8 r32",
    "aquatint W4A8 r32, whole",
    "bare integer loop",
    "bare FMA loop",
    "bare tile loop",
)
LARGE = (
    "torch fp32",
    "OpenVINO u4",
    "onnxruntime fp32",
    "onnxruntime MatMulNBits",
    "torch bf16",
    "OpenVINO bf16",
    "aquatint W4A8 r32",
    "aquatint W4A8 r32, whole",
    "aquatint W4A4 r32",
)
FULL = ("torch fp32", "torch bf16", "OpenVINO bf16", "OpenVINO int8", "aquatint W4A8 r32, whole")


@dataclass(frozen=True)
class Case:
    """build(seed) gives the module, always the same, and inputs drawn with the seed.

    macs    multiply-adds of one call; 0: not counted
    single  it is one site
    hasty   we neither smooth nor search: the model is large, its weights are random, and speed is all that the case shows
    only    the contenders that fit into memory beside each other; empty: all
    """

    name: str
    build: Callable[[int], tuple[nn.Module, tuple[Any, ...]]]
    macs: int = 0
    single: bool = False
    hasty: bool = False
    only: tuple[str, ...] = ()


def linear(rows: int, inner: int, outputs: int, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """Weights as large models have them: a few strong directions, and some channels of the input ten times the others."""
    import torch

    torch.manual_seed(0)
    module = torch.nn.Linear(inner, outputs)
    channels = torch.ones(inner)
    channels[torch.randperm(inner)[: inner // 64]] = 10
    with torch.no_grad():
        module.weight += torch.randn(outputs, 8) @ torch.randn(8, inner) / (8 * inner) ** 0.5
    torch.manual_seed(seed)
    return module, (torch.randn(1, rows, inner) * channels,)


def mlp(rows: int, inner: int, outputs: int, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """Two linears as above with a GELU between them."""
    import torch

    up, inputs = linear(rows, inner, outputs, seed)
    down, _ = linear(rows, outputs, inner, seed)
    return torch.nn.Sequential(up, torch.nn.GELU(approximate="tanh"), down), inputs


def attention(tokens: int, heads: int, width: int, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """Self-attention with its four linears; scores deviate by about 1."""
    import torch

    torch.manual_seed(0)
    wide = heads * width

    class SelfAttention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_k, self.to_v, self.to_out = (torch.nn.Linear(wide, wide) for _ in range(4))
            self.to_q.weight.data *= 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (f(x).unflatten(-1, (heads, width)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.to_out(y.transpose(1, 2).flatten(2))

    module = torch.nn.Sequential(SelfAttention())
    torch.manual_seed(seed)
    return module, (torch.randn(1, tokens, wide),)


def convolution(channels: int, size: int, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Conv2d(channels, channels, 3, padding=1)
    torch.manual_seed(seed)
    return module, (torch.randn(1, channels, size, size),)


def shipped(folder: str, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """A shipped model with two samples at a middle time step."""
    import torch

    from aquatint.checkpoint import open_checkpoint
    from aquatint.commands.demo import MODELS

    model = open_checkpoint(MODELS / folder).model.eval()
    torch.manual_seed(seed)
    inputs = torch.randn(2, 1, 28, 28), torch.tensor([500, 500])
    return model, (*inputs, torch.tensor([3, 7])) if "dit" in folder else inputs


def dit_xl(depth: int, size: int, seed: int, heads: int = 16) -> tuple[nn.Module, tuple[Any, ...]]:
    """The first `depth` blocks of a DiT-XL/2 (or a narrower one) with random weights, on one latent of `size` pixels."""
    import torch
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=depth, sample_size=size
    )
    torch.manual_seed(seed)
    return model.eval(), (torch.randn(1, 4, size, size), torch.tensor([500]), torch.tensor([3]))


def sd_unet(seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """The U-Net of Stable Diffusion 1.5 with random weights, on one latent of 64 x 64 and 77 tokens of text."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    torch.manual_seed(seed)
    return model.eval(), (torch.randn(1, 4, 64, 64), torch.tensor(500), torch.randn(1, 77, 768))


def block(width: int, tokens: int) -> Case:
    """One block of a DiT; the multiply-adds are those of its products, without attention and what depends on the time alone."""
    name = f"DiT block, {width} wide, {tokens} tokens"
    return Case(
        name, partial(dit_xl, 1, 2 * math.isqrt(tokens), heads=width // 72), 12 * width**2 * tokens, hasty=True, only=SCALED
    )


CASES = {
    case.name: case
    for case in (
        *(Case(f"linear {m}x{k}x{n}", partial(linear, m, k, n), m * k * n, single=True) for m, k, n in LINEARS),
        *(Case(f"conv3x3 {c} at {s}", partial(convolution, c, s), 9 * c * c * s * s, single=True) for c, s in CONVOLUTIONS),
        *(Case(f"MLP {m}x{k}x{n}", partial(mlp, m, k, n), 2 * m * k * n) for m, k, n in MLPS),
        *(
            Case(f"attention {t} tokens, {h} x {w}", partial(attention, t, h, w), 4 * t * (h * w) ** 2 + 2 * t**2 * h * w)
            for t, h, w in ATTENTIONS
        ),
        Case("fashion-dit", partial(shipped, "fashion-dit")),
        Case("fashion-unet", partial(shipped, "fashion-unet")),
        Case("DiT-XL/2, 4 blocks, 256 tokens", partial(dit_xl, 4, 32)),
        Case("DiT-XL/2, 4 blocks, 1024 tokens", partial(dit_xl, 4, 64)),
        Case("DiT-XL/2, 12 blocks, 256 tokens", partial(dit_xl, 12, 32), hasty=True, only=LARGE),
        Case("DiT-XL/2, 28 blocks, 256 tokens", partial(dit_xl, 28, 32), hasty=True, only=FULL),
        Case("SD 1.5 U-Net, 64 x 64", sd_unet, hasty=True, only=LARGE),
    )
}
SCALING = {
    "tokens": {tokens: block(1152, tokens) for tokens in SCALED_TOKENS},
    "width": {width: block(width, 256) for width in SCALED_WIDTHS},
}


def case_named(name: str) -> Case:
    """Of either table."""
    scaled = {case.name: case for sizes in SCALING.values() for case in sizes.values()}
    return {**CASES, **scaled}[name]

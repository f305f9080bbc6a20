"""What a tiny model of diffusers is made of and called with: shared by `diffusers_models` and `diffusers_videos`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 32}
JOINT: dict[str, Any] = {**HEADS, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": 48}
AXES = (8, 12, 12)  # of a head of 32


@dataclass(frozen=True)
class Tiny:
    """A model, its call by batch and size, and the sizes: the first is captured, the others are tried."""

    model: nn.Module
    call: Callable[[int, Any], Call]
    sizes: tuple[Any, ...]


def made(kind: Callable[..., nn.Module], **config: Any) -> nn.Module:
    """For classes whose annotations say `tuple[int]` where any length is meant."""
    return kind(**config)


def given(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


def image(batch: int, size: int | tuple[int, int], channels: int = 4) -> Tensor:
    height, width = size if isinstance(size, tuple) else (size, size)
    return torch.randn(batch, channels, height, width)


def patches(batch: int, size: int) -> Tensor:
    return torch.randn(batch, size * size, 16)


def text(batch: int, width: int = 48, tokens: int = 7) -> Tensor:
    return torch.randn(batch, tokens, width)


def pooled(batch: int, width: int = 32) -> Tensor:
    return torch.randn(batch, width)


def steps(batch: int) -> Tensor:
    return torch.tensor([5, 9, 3])[:batch]


def noise_levels(batch: int) -> Tensor:
    return torch.tensor([0.5, 0.9, 0.3])[:batch]


def places(count: int, axes: int = 3) -> Tensor:
    return torch.randint(0, 8, (count, axes)).float()


def angles(count: int) -> tuple[Tensor, Tensor]:
    """Rotary positions, for models that take them from their pipeline."""
    angle = torch.randn(count, 32)
    return angle.cos(), angle.sin()


def mask(batch: int, tokens: int = 7) -> Tensor:
    """Of a text whose second sample is shorter."""
    kept = torch.ones(batch, tokens, dtype=torch.bool)
    kept[1:2, 4:] = False
    return kept

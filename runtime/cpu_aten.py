"""PyTorch's own operators between ours: images keep their channels last, as our kernels read and write them; attention without
a mask and products of few rows have kernels of their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.runtime.binding import Run, at, runner
from aquatint.runtime.cpu_kernels import FEW_ROWS, BoundKernel, GroupAffineKernel
from aquatint.runtime.native import AttentionCall, Heads, KernelSet, LinearCall

MOST_KEYS = 128  # measured: with 49 and 77 keys 1.2 to 1.6 times the library's speed, with 196 level, with 1024 0.8 times


class FloatConvolution:
    """aten::conv2d with its channels last from input to output; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None, *geometry: Any, **options: Any
    ) -> None:
        self.weight, self.bias, self.geometry, self.options = _channels_last(weight), bias, geometry, options

    def fits(self, x: Tensor) -> bool:
        return x.dim() == 4

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(_channels_last(x), self.weight, self.bias, *self.geometry, **self.options)


class GroupNormKernel(BoundKernel):
    """aten::group_norm as the gain and offset that our kernel finds; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, cudnn_enabled: bool = False,
    ) -> None:  # fmt: skip
        self.affine = GroupAffineKernel(kernels, x, groups, weight, bias, eps=eps)
        self.fits = self.affine.fits

    def results(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)

    def bind(self, results: Tensor, x: Tensor) -> Run:
        affine = self.affine.results(x)
        find = self.affine.bind(affine, x)
        gain, offset = (v.movedim(-1, 1) for v in affine)

        def run() -> None:
            find()
            torch.addcmul(offset, x, gain, out=results)

        return run


class AttentionKernel(BoundKernel):
    """aten::scaled_dot_product_attention without a mask; called with q, k and v (B, H, T, D)."""

    def __init__(
        self, kernels: KernelSet, q: Any, k: Any, v: Any, attn_mask: None = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> None:  # fmt: skip
        self.kernels, self.scale = kernels, scale

    def fits(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        plain = all(t.dim() == 4 and t.dtype == torch.float32 and t.stride(-1) == 1 for t in (q, k, v))
        return plain and k.shape == v.shape and q.shape[:2] == k.shape[:2] and 0 < k.shape[2] <= MOST_KEYS and q.numel() > 0

    def results(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, queries, width = q.shape
        return torch.empty(batch, queries, heads, width).transpose(1, 2)

    def bind(self, results: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Run:
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        heads = [Heads(at(t), *t.stride()[:3]) for t in (q, k, v)]
        call = AttentionCall(*heads, *q.shape[:3], k.shape[2], q.shape[3], scale, at(results))
        return runner(self.kernels, self.kernels.library.aq_attention, call, (q, k, v, results))


class FewRowsKernel(BoundKernel):
    """aten::linear by a weight in float32, for few rows; called with x."""

    def __init__(self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        self.kernels, self.weight = kernels, weight.contiguous()
        self.bias = None if bias is None else bias.contiguous()

    def fits(self, x: Tensor) -> bool:
        return x.numel() <= FEW_ROWS * x.shape[-1] and x.dtype == torch.float32 and x.is_contiguous()

    def results(self, x: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], len(self.weight))

    def bind(self, results: Tensor, x: Tensor) -> Run:
        n, k = self.weight.shape
        call = LinearCall(at(x), at(self.weight), at(self.bias), x.numel() // k, n, k, at(results))
        return runner(self.kernels, self.kernels.library.aq_few_rows, call, (x, results))


def _channels_last(image: Tensor) -> Tensor:
    """In that order in memory; with a single channel the strides alone tell, and torch reads its formats from them."""
    image = image.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = image.shape
    return image.as_strided(image.shape, (channels * height * width, 1, channels * width, channels))

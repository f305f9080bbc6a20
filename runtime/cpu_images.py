"""Operators of PyTorch's own between ours on images: our kernels read and write channels that lie last, so these do as well."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.runtime.binding import Run
from aquatint.runtime.cpu_kernels import BoundKernel, GroupAffineKernel
from aquatint.runtime.native import KernelSet


class FloatConvolution:
    """aten::conv2d with its channels last from input to output; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None, *geometry: Any, **options: Any
    ) -> None:
        self.weight, self.bias, self.geometry, self.options = _channels_last(weight), bias, geometry, options

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(_channels_last(x), self.weight, self.bias, *self.geometry, **self.options)


class GroupNormKernel(BoundKernel):
    """aten::group_norm as the gain and offset that our kernel finds; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, cudnn_enabled: bool = False,
    ) -> None:  # fmt: skip
        self.affine = GroupAffineKernel(kernels, x, groups, weight, bias, eps=eps)
        self.meant = groups, weight, bias, eps

    def results(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)

    def bind(self, results: Tensor, x: Tensor) -> Run:
        if not x.movedim(1, -1).is_contiguous() or x.dtype != torch.float32:
            return lambda: results.copy_(F.group_norm(x, *self.meant))
        affine = self.affine.results(x)
        find = self.affine.bind(affine, x)
        gain, offset = (v.movedim(-1, 1) for v in affine)

        def run() -> None:
            find()
            torch.addcmul(offset, x, gain, out=results)

        return run


def _channels_last(image: Tensor) -> Tensor:
    """In that order in memory; with a single channel the strides alone tell, and torch reads its formats from them."""
    image = image.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = image.shape
    return image.as_strided(image.shape, (channels * height * width, 1, channels * width, channels))

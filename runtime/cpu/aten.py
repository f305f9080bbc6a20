"""PyTorch's own operators between ours: images keep their channels last, as our kernels read and write them; attention without
a mask and small products and convolutions have kernels of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.runtime.cpu.binding import Affine, Bound, Run, collected, staged
from aquatint.runtime.cpu.kernels import ACTIVATIONS, FEW_ROWS, BoundKernel, GroupAffineKernel, window_of
from aquatint.runtime.cpu.native import AttentionCall, Heads, KernelSet, LinearCall, Window
from aquatint.runtime.cpu.pack import panels
from aquatint.runtime.layout import at, output_size

SMALL = 1 << 24  # multiply-adds up to which the library's call takes longer than its arithmetic
FEW_OUTPUTS = 8  # up to here dot products leave less undone than a panel

MOST_KEYS = {"plain": 128}  # without vector instructions the library is faster from here on


class FloatConvolution(BoundKernel):
    """aten::conv2d with its channels last from input to output; called with x. Small ones have a kernel, others the library."""

    def __init__(
        self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> None:  # fmt: skip
        self.weight, self.bias, self.groups = _channels_last(weight), bias, groups
        self.geometry = pair(stride), pair(padding), pair(dilation)
        self.product: FloatWeight | DepthwiseWeight | None = None
        if groups == 1:
            self.product = FloatWeight(kernels, self.weight.permute(0, 2, 3, 1).flatten(1), bias)
        elif is_depthwise(weight, groups):
            self.product = DepthwiseWeight(kernels, weight, bias)

    def fits(self, x: Tensor) -> bool:
        return x.dim() == 4 and x.dtype == torch.float32

    def results(self, x: Tensor) -> Tensor:
        size = output_size(x.shape[2:], self.weight.shape[2:], *self.geometry)
        return torch.empty(len(x), *size, len(self.weight)).permute(0, 3, 1, 2)

    def bind(self, results: Tensor, x: Tensor) -> Run:
        stride, padding, dilation = self.geometry
        if self.product is None or not self.product.worthwhile(results.numel() // len(self.weight)):
            image, weight = _channels_last, self.weight
            return lambda: results.copy_(F.conv2d(image(x), weight, self.bias, stride, padding, dilation, self.groups))
        rows, before = staged(x.movedim(1, -1))
        geometry = self.weight.shape[2:], stride, padding, dilation
        window = window_of((*x.shape[2:], x.shape[1]), results.shape[2:], geometry, None)
        return self.product.bind(results.movedim(1, -1), rows, before, window)


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
        gain, offset = (v.movedim(-1, 1) for v in affine)
        return self.affine.bind(affine, x, [Affine(results, x, gain, offset)])


class AttentionKernel(BoundKernel):
    """aten::scaled_dot_product_attention without a mask, or aquatint::attention; called with q, k and v (B, H, T, D)."""

    def __init__(
        self, kernels: KernelSet, q: Any, k: Any, v: Any, attn_mask: None = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False, format: str = "float32",
    ) -> None:  # fmt: skip
        self.kernels, self.scale, self.bfloat16 = kernels, scale, format == "bfloat16"

    def fits(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        plain = all(t.dim() == 4 and t.dtype == torch.float32 and t.stride(-1) == 1 for t in (q, k, v))
        alike = k.shape == v.shape and q.shape[:2] == k.shape[:2] and q.numel() > 0
        most = k.shape[2] if self.kernels.alone else MOST_KEYS.get(self.kernels.name, k.shape[2])
        return plain and alike and 0 < k.shape[2] <= most

    def results(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, queries, width = q.shape
        return torch.empty(batch, queries, heads, width).transpose(1, 2)

    def bind(self, results: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Run:
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        heads = [Heads(at(t), *t.stride()[:3]) for t in (q, k, v)]
        call = AttentionCall(*heads, *q.shape[:3], k.shape[2], q.shape[3], scale, self.bfloat16, at(results))
        return Bound(self.kernels, self.kernels.library.aq_attention, call, (q, k, v, results))


class LinearKernel(BoundKernel):
    """aten::linear by a weight in float32, where a call of the library would take longer than the arithmetic; called with x."""

    def __init__(self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        self.product = FloatWeight(kernels, weight, bias)

    def fits(self, x: Tensor) -> bool:
        rows = x.numel() // max(1, x.shape[-1])
        in_order = x.is_contiguous() or self.product.kernels.alone
        return x.dtype == torch.float32 and in_order and (rows <= FEW_ROWS or self.product.worthwhile(rows))

    def results(self, x: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], self.product.shape[0])

    def bind(self, results: Tensor, x: Tensor) -> Run:
        return self.product.bind(results, *staged(x))


class ByteWeightKernel(BoundKernel):
    """aquatint::gemm of plain numbers by a weight in int8, for few rows; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, scales: None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: None = None, up: None = None, *,
        formats: tuple[None, str], dtype: torch.dtype, activation: str | None = None, gate: None = None, residual: None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.product = FloatWeight(kernels, weight, bias, weight_scales, activation)

    def fits(self, x: Tensor) -> bool:
        return self.product.kernels.alone or x.numel() <= FEW_ROWS * x.shape[-1]

    def results(self, x: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], self.product.shape[0], dtype=self.dtype)

    def bind(self, results: Tensor, x: Tensor) -> Run:
        rows, before = staged(x)
        numbers, after = (results, []) if self.dtype == torch.float32 else collected(results)
        return self.product.bind(numbers, rows, before, after=after)


class FloatWeight:
    """A weight (N, K) in float32, or in int8 with its scales, and its bias; laid out in panels when a call first needs them."""

    def __init__(
        self, kernels: KernelSet, weight: Tensor, bias: Tensor | None, scales: Tensor | None = None,
        activation: str | None = None, rowwise: bool = False,
    ) -> None:  # fmt: skip
        self.kernels, self.activation, self.shape = kernels, ACTIVATIONS.index(activation), weight.shape
        self.bias, self.scales = (None if v is None else v.float().contiguous() for v in (bias, scales))
        self._in_panels = scales is None and weight.shape[0] > FEW_OUTPUTS
        self._always = rowwise and self._in_panels  # so that a row is the same number however many are computed
        self._weight = None if self._always else weight.contiguous()
        self._panels = panels(weight, kernels.columns) if self._always else None

    def worthwhile(self, rows: int) -> bool:
        multiplications = rows * self.shape.numel()
        return multiplications > 0 and (self.kernels.alone or multiplications <= SMALL)

    def bind(
        self, y: Tensor, x: Tensor, before: Sequence[Run] = (), window: Window | None = None, after: Sequence[Run] = (),
        table: Tensor | None = None,
    ) -> Run:  # fmt: skip
        n, k = self.shape
        rows = y.numel() // n
        in_panels = self._always or (self._in_panels and rows > FEW_ROWS)
        if in_panels and self._panels is None:
            assert self._weight is not None
            self._panels = panels(self._weight, self.kernels.columns)
        weight = self._panels if in_panels else self._weight
        call = LinearCall(
            x=at(x), weight=at(weight), scales=at(self.scales), bias=at(self.bias), m=rows, n=n, k=k, panels=in_panels,
            activation=self.activation, y=at(y),
        )  # fmt: skip
        if window:
            call.window = ctypes.pointer(window)
        return Bound(self.kernels, self.kernels.library.aq_linear, call, (self, x, weight, window, table, y), before, after)


class DepthwiseWeight:
    """The weight (N, 1, kh, kw) of a convolution of each channel for itself, and its bias."""

    def __init__(self, kernels: KernelSet, weight: Tensor, bias: Tensor | None) -> None:
        self.kernels, self.weight, self.bias = kernels, weight.flatten(1).T.contiguous(), bias

    def worthwhile(self, rows: int) -> bool:
        return rows > 0 and self.kernels.alone

    def bind(self, y: Tensor, x: Tensor, before: Sequence[Run], window: Window, table: Tensor | None = None) -> Run:
        """y (..., N) of an image x (B, H, W, N)."""
        k, n = self.weight.shape
        call = LinearCall(x=at(x), weight=at(self.weight), bias=at(self.bias), m=y.numel() // n, n=n, k=k, y=at(y))
        call.window = ctypes.pointer(window)
        return Bound(self.kernels, self.kernels.library.aq_depthwise, call, (x, window, table, y, self), before)


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Is each channel a group, and gives one?"""
    return groups == len(weight) and weight.shape[1] == 1


def pair(value: Any) -> list[int]:
    """For height and width, where one number may stand for both."""
    return [value] * 2 if isinstance(value, int) else [*value] * (2 // len(value))


def _channels_last(image: Tensor) -> Tensor:
    """In that order in memory; with a single channel the strides alone tell, and torch reads its formats from them."""
    image = image.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = image.shape
    return image.as_strided(image.shape, (channels * height * width, 1, channels * width, channels))

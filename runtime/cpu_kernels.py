"""The compiled CPU kernels as the target calls them: what is fixed is laid out once, what varies is passed by address."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.native import GroupAffineCall, KernelSet, ProductCall, QuantizeCall, Window

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")  # in the order of csrc/cpu/kernel_table.h
GROUP = 64  # codes that the kernels sum at once
FEW_ROWS = 16  # up to here a product is limited by reading its weight


class QuantizeKernel:
    """aquatint::quantize with its vectors laid out for the kernel; called with x and what else varies."""

    def __init__(
        self, kernels: KernelSet, x: Any, smooth: Tensor | None = None, down: Tensor | None = None, gain: Any = None,
        offset: Any = None, *, format: str, axis: int = -1, eps: float | None = None, activation: str | None = None,
    ) -> None:  # fmt: skip
        self.kernels, self.axis, self.format = kernels, axis, format_named(format)
        self.meant = (smooth, down), {"format": format, "axis": axis, "eps": eps, "activation": activation}
        self.affine = gain, offset
        self.eps, self.activation = -1.0 if eps is None else eps, ACTIVATIONS.index(activation)
        self.smooth = None if smooth is None else smooth.float().contiguous()
        folded = None if down is None else down.float() if smooth is None else down.float() * smooth.float()
        self.down = None if folded is None else _panels(folded, kernels.columns)
        self.rank = 0 if down is None else len(down)

    def __call__(self, x: Tensor, *varying: Tensor) -> tuple[Tensor, ...]:
        given = iter(varying)
        gain, offset = (next(given) if v is ops.Slot else v for v in self.affine)
        sets = [_sets(v, x, self.axis) for v in (gain, offset) if v is not None]
        if x.shape[self.axis] % GROUP or None in sets or len(set(sets)) > 1:
            return ops.quantize(x, *self.meant[0], gain, offset, **self.meant[1])
        x = x.movedim(self.axis, -1).float().contiguous()
        gain, offset = (None if v is None else v.float().contiguous() for v in (gain, offset))
        *outer, k = x.shape
        m, bits, group = x.numel() // k, self.format.bits, self.format.group or k
        codes = torch.empty(*outer, k * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
        scales = torch.empty(*outer, k // group)
        h = torch.empty(*outer, self.rank) if self.down is not None else None
        rows_a_set = m // sets[0] if sets and sets[0] and sets[0] > 1 else 0
        call = QuantizeCall(
            _at(x), _at(self.smooth), _at(self.down), _at(gain), _at(offset), m, k, self.rank, group, rows_a_set,
            self.eps, self.activation, bits, _at(codes), _at(scales), _at(h),
        )  # fmt: skip
        self.kernels.library.aq_quantize(self.kernels.table, ctypes.byref(call), torch.get_num_threads())
        scales = scales.bfloat16() if self.format.scale == "bfloat16" else scales
        return (codes, scales) if h is None else (codes, scales, h)


def _sets(vector: Tensor, x: Tensor, axis: int) -> int | None:
    """How many vectors of K: 1 for all rows, or one for each of the batch; None for any other shape."""
    channels, batch = x.shape[axis], x.shape[0]
    if vector.shape[-1:] != (channels,):
        return None
    if vector.numel() == channels:
        return 1
    return batch if vector.dim() == x.dim() and vector.shape[0] == batch and vector.numel() == batch * channels else None


class GroupAffineKernel:
    """aquatint::group_affine of images whose channels lie last in memory; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
    ) -> None:
        self.kernels, self.groups, self.eps = kernels, groups, eps
        self.weight, self.bias = (None if v is None else v.float().contiguous() for v in (weight, bias))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.movedim(1, -1).float()
        if not rows.is_contiguous():
            return ops.group_affine(x, self.groups, self.weight, self.bias, eps=self.eps)
        batch, height, width, channels = rows.shape
        gain, offset = torch.empty(batch, 1, 1, channels), torch.empty(batch, 1, 1, channels)
        call = GroupAffineCall(
            _at(rows), _at(self.weight), _at(self.bias), batch, height * width, channels, self.groups, self.eps,
            _at(gain), _at(offset),
        )  # fmt: skip
        self.kernels.library.aq_group_affine(self.kernels.table, ctypes.byref(call), torch.get_num_threads())
        return gain, offset


class _Packed:
    """A 4-bit weight with its scales, bias and up-projection, in the panels that the product reads."""

    def __init__(
        self, kernels: KernelSet, weight: Tensor, scales: Tensor, bias: Tensor | None, up: Tensor | None, activation: str | None
    ) -> None:
        self.kernels, self.activation = kernels, ACTIVATIONS.index(activation)
        self.n, self.k = len(weight), 2 * weight[0].numel()
        self.rank = 0 if up is None else up.shape[1]
        library = kernels.library
        self.weight = torch.empty(library.aq_packed_bytes(kernels.table, self.n, self.k), dtype=torch.uint8)
        library.aq_pack_weight(kernels.table, _at(weight.contiguous()), self.n, self.k, _at(self.weight))
        self.scales = _panels(scales.float().flatten(1), kernels.columns)
        self.bias = None if bias is None else _panels(bias.float().unsqueeze(1), kernels.columns)
        self.up = None if up is None else _panels(up.float(), kernels.columns)

    def product(
        self,
        x: Tensor,
        scales: Tensor | None,
        h: Tensor | None,
        outer: tuple[int, ...],
        bits: int,
        window: Window | None = None,
    ) -> Tensor:
        """(*outer, N) in float32 of codes or, with 32 bits, of numbers."""
        y = torch.empty(*outer, self.n)
        if y.numel() == 0:
            return y
        call = ProductCall(
            _at(x), _at(scales), _at(self.weight), _at(self.scales), _at(self.bias), _at(h), _at(self.up),
            ctypes.pointer(window) if window else None, y.numel() // self.n, self.n, self.k, self.rank,
            0 if scales is None else scales.shape[-1], bits, self.activation, _at(y),
        )  # fmt: skip
        self.kernels.library.aq_product(self.kernels.table, ctypes.byref(call), torch.get_num_threads())
        return y


class GemmKernel:
    """aquatint::gemm of codes; called with codes, scales and, with a branch, h."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None,
    ) -> None:  # fmt: skip
        self.dtype, self.bits = dtype, format_named(formats[0]).bits
        self.packed = _Packed(kernels, weight, weight_scales, bias, up, activation)

    def __call__(self, codes: Tensor, scales: Tensor, h: Tensor | None = None) -> Tensor:
        codes, scales, h = codes.contiguous(), scales.float().contiguous(), None if h is None else h.float().contiguous()
        return self.packed.product(codes, scales, h, codes.shape[:-1], self.bits).to(self.dtype)


class FloatGemmKernel:
    """aquatint::gemm of plain numbers by a weight that is stored small; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, scales: None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: None = None, up: None = None, *,
        formats: tuple[None, str], dtype: torch.dtype, activation: str | None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype
        self.meant = (weight, weight_scales, bias), {"formats": formats, "dtype": dtype, "activation": activation}
        self.packed = _Packed(kernels, weight, weight_scales, bias, None, activation)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > FEW_ROWS * x.shape[-1]:
            return ops.gemm(x, None, *self.meant[0], **self.meant[1])
        return self.packed.product(x.float().contiguous(), None, None, x.shape[:-1], 32).to(self.dtype)


class ConvolutionKernel:
    """aquatint::conv2d as a product over gathered pixels; called with codes, scales and, with a branch, h."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, stride: list[int], padding: list[int], dilation: list[int],
    ) -> None:  # fmt: skip
        self.dtype, self.bits = dtype, format_named(formats[0]).bits
        self.taps, self.stride, self.padding, self.dilation = list(weight.shape[1:3]), stride, padding, dilation
        self.packed = _Packed(kernels, weight, weight_scales, bias, up, None)

    def __call__(self, codes: Tensor, scales: Tensor, h: Tensor | None = None) -> Tensor:
        codes, scales, h = codes.contiguous(), scales.float().contiguous(), None if h is None else h.float().contiguous()
        batch, height, width, stored = codes.shape
        geometry = self.taps, self.stride, self.padding, self.dilation
        rows, columns = (
            (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, padding, dilation in zip((height, width), *geometry, strict=True)
        )
        pairs = [(ctypes.c_int64 * 2)(*pair) for pair in geometry]
        window = Window(height, width, stored * 8 // self.bits, rows, columns, *pairs)
        y = self.packed.product(codes, scales, h, (batch, rows, columns), self.bits, window)
        return y.permute(0, 3, 1, 2).to(self.dtype)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _panels(rows: Tensor, columns: int) -> Tensor:
    """(N, r) as (N / columns, r, columns), the last panel filled up with zeros."""
    padded = F.pad(rows, (0, 0, 0, -len(rows) % columns))
    return padded.unflatten(0, (-1, columns)).transpose(1, 2).contiguous()

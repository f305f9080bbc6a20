"""The compiled CPU kernels as the target calls them: what is fixed is laid out once, what varies is passed by address.

A kernel is called with the values of its arguments that are `ops.Slot`s, in order. The structure that a call hands over is
prepared; each call fills in a copy, so that one module can serve several threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.native import GroupAffineCall, KernelSet, ProductCall, QuantizeCall, Spread, Window

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
        self.smooth = None if smooth is None else _numbers(smooth)
        folded = None if down is None else down.float() if smooth is None else down.float() * smooth.float()
        self.down = None if folded is None else _panels(folded, kernels.columns)
        self.rank = 0 if down is None else len(down)
        self.call = QuantizeCall(
            smooth=_at(self.smooth), down=_at(self.down), rank=self.rank, eps=-1.0 if eps is None else eps,
            activation=ACTIVATIONS.index(activation), bits=self.format.bits,
        )  # fmt: skip

    def __call__(self, x: Tensor, *varying: Tensor) -> tuple[Tensor, ...]:
        gain, offset = _filled(self.affine, varying)
        sets = {_sets(v, x, self.axis) for v in (gain, offset) if v is not None}
        if x.shape[self.axis] % GROUP or None in sets or len(sets) > 1:
            return ops.quantize(x, *self.meant[0], gain, offset, **self.meant[1])
        x = _numbers(x if self.axis == -1 else x.movedim(self.axis, -1))
        *outer, k = x.shape
        m, bits, group = x.numel() // k, self.format.bits, self.format.group or k
        codes = torch.empty(*outer, k * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
        scales = torch.empty(*outer, k // group)
        h = torch.empty(*outer, self.rank) if self.rank else None
        call = QuantizeCall.from_buffer_copy(self.call)
        call.x, call.m, call.k, call.group = x.data_ptr(), m, k, group
        if sets:
            gain, offset = (None if v is None else _numbers(v) for v in (gain, offset))
            (count,) = sets
            call.gain, call.offset, call.rows_a_set = _at(gain), _at(offset), m // count if count > 1 else 0  # type: ignore[operator]
        call.codes, call.scales, call.h = codes.data_ptr(), scales.data_ptr(), _at(h)
        self.kernels.library.aq_quantize(self.kernels.table, call, torch.get_num_threads())
        scales = scales.bfloat16() if self.format.scale == "bfloat16" else scales
        return (codes, scales) if h is None else (codes, scales, h)


class GroupAffineKernel:
    """aquatint::group_affine of images whose channels lie last in memory; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
    ) -> None:
        self.kernels, self.groups, self.eps = kernels, groups, eps
        self.weight, self.bias = (None if v is None else _numbers(v) for v in (weight, bias))
        self.call = GroupAffineCall(weight=_at(self.weight), bias=_at(self.bias), groups=groups, eps=eps)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.movedim(1, -1).float()
        if not rows.is_contiguous():
            return ops.group_affine(x, self.groups, self.weight, self.bias, eps=self.eps)
        batch, *inner, channels = rows.shape
        shape = batch, *[1] * len(inner), channels
        gain, offset = torch.empty(shape), torch.empty(shape)
        call = GroupAffineCall.from_buffer_copy(self.call)
        call.x, call.images, call.pixels, call.channels = _at(rows), batch, rows[0].numel() // channels, channels
        call.gain, call.offset = _at(gain), _at(offset)
        self.kernels.library.aq_group_affine(self.kernels.table, call, torch.get_num_threads())
        return gain, offset


class _Product:
    """A 4-bit weight with its scales, bias and up-projection, in the panels that the product reads, and its epilogue."""

    def __init__(
        self, kernels: KernelSet, weight: Tensor, scales: Tensor, bias: Tensor | None, up: Tensor | None, bits: int,
        dtype: torch.dtype, activation: str | None, gate: Any = None, residual: Any = None,
    ) -> None:  # fmt: skip
        self.kernels, self.dtype, self.epilogue = kernels, dtype, (gate, residual)
        self.n, k = len(weight), 2 * weight[0].numel()
        library, columns = kernels.library, kernels.columns
        self.weight = torch.empty(library.aq_packed_bytes(kernels.table, self.n, k), dtype=torch.uint8)
        library.aq_pack_weight(kernels.table, _at(weight.contiguous()), self.n, k, _at(self.weight))
        self.scales = _panels(scales.float().flatten(1), columns)
        self.bias = None if bias is None else _panels(bias.float().unsqueeze(1), columns)
        self.up = None if up is None else _panels(up.float(), columns)
        self.call = ProductCall(
            weight=_at(self.weight), weight_scales=_at(self.scales), bias=_at(self.bias), up=_at(self.up), n=self.n, k=k,
            rank=0 if up is None else up.shape[1], bits=bits, activation=ACTIVATIONS.index(activation),
        )  # fmt: skip

    def __call__(
        self, x: Tensor, scales: Tensor | None, h: Tensor | None, outer: Sequence[int], varying: Sequence[Tensor] = (),
        window: Window | None = None,
    ) -> Tensor:  # fmt: skip
        """(*outer, N) of codes or numbers x; `varying` are gate and residual, with their channels last."""
        y = torch.empty(*outer, self.n)
        if y.numel() == 0:
            return y.to(self.dtype)
        gate, residual = _filled(self.epilogue, varying)
        fitting = all(v is None or _sets(v, y, -1) for v in (gate, residual))
        call = ProductCall.from_buffer_copy(self.call)
        call.x, call.scales, call.h, call.y = x.data_ptr(), _at(scales), _at(h), y.data_ptr()
        call.m, call.scale_groups = y.numel() // self.n, 0 if scales is None else scales.shape[-1]
        if window:
            call.window = ctypes.pointer(window)
        if fitting:
            gate, residual = (None if v is None else _numbers(v) for v in (gate, residual))
            call.gate, call.residual = _spread(gate, y), _spread(residual, y)
        self.kernels.library.aq_product(self.kernels.table, call, torch.get_num_threads())
        if not fitting:  # in a shape that the kernel does not spread
            y = y if gate is None else y * gate.float()
            y = y if residual is None else y + residual.float()
        return y if self.dtype == torch.float32 else y.to(self.dtype)


class GemmKernel:
    """aquatint::gemm of codes; called with codes, scales and what else varies: h, gate, residual."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None, gate: Any = None, residual: Any = None,
    ) -> None:  # fmt: skip
        bits, self.branch = format_named(formats[0]).bits, int(h is not None)
        up = up if self.branch else None
        self.product = _Product(kernels, weight, weight_scales, bias, up, bits, dtype, activation, gate, residual)

    def __call__(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> Tensor:
        h = _numbers(varying[0]) if self.branch else None
        return self.product(codes.contiguous(), _numbers(scales), h, codes.shape[:-1], varying[self.branch :])


class FloatGemmKernel:
    """aquatint::gemm of plain numbers by a weight that is stored small; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, scales: None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: None = None, up: None = None, *,
        formats: tuple[None, str], dtype: torch.dtype, activation: str | None = None, gate: None = None, residual: None = None,
    ) -> None:  # fmt: skip
        self.meant = (weight, weight_scales, bias), {"formats": formats, "dtype": dtype, "activation": activation}
        self.product = _Product(kernels, weight, weight_scales, bias, None, 32, dtype, activation)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > FEW_ROWS * x.shape[-1]:
            return ops.gemm(x, None, *self.meant[0], **self.meant[1])
        return self.product(_numbers(x), None, None, x.shape[:-1])


class ConvolutionKernel:
    """aquatint::conv2d as a product over gathered pixels; called with codes, scales and what else varies: h, gate, residual."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, stride: list[int], padding: list[int], dilation: list[int],
        activation: str | None = None, gate: Any = None, residual: Any = None,
    ) -> None:  # fmt: skip
        self.bits, self.branch = format_named(formats[0]).bits, int(h is not None)
        self.taps, self.stride, self.padding, self.dilation = list(weight.shape[1:3]), stride, padding, dilation
        gate, residual = (v.movedim(-3, -1) if isinstance(v, Tensor) else v for v in (gate, residual))
        up = up if self.branch else None
        self.product = _Product(kernels, weight, weight_scales, bias, up, self.bits, dtype, activation, gate, residual)

    def __call__(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> Tensor:
        h = _numbers(varying[0]) if self.branch else None
        batch, height, width, stored = codes.shape
        geometry = self.taps, self.stride, self.padding, self.dilation
        rows, columns = (
            (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, padding, dilation in zip((height, width), *geometry, strict=True)
        )
        pairs = [(ctypes.c_int64 * 2)(*pair) for pair in geometry]
        window = Window(height, width, stored * 8 // self.bits, rows, columns, *pairs)
        others = [v.movedim(-3, -1) for v in varying[self.branch :]]
        y = self.product(codes.contiguous(), _numbers(scales), h, (batch, rows, columns), others, window)
        return y.permute(0, 3, 1, 2)


def _filled(values: Sequence[Any], varying: Sequence[Tensor]) -> list[Any]:
    """`values` with each Slot replaced by the next of what varies."""
    given = iter(varying)
    return [next(given) if value is ops.Slot else value for value in values]


def _sets(vectors: Tensor, x: Tensor, axis: int) -> int | None:
    """How many vectors of K: 1 for all rows, one for each of the batch, or one for each row; None for any other shape."""
    channels, batch = x.shape[axis], x.shape[0]
    if vectors.shape[-1] != channels:
        return None
    count = vectors.numel() // channels
    if count == 1:
        return 1
    if vectors.dim() != x.dim() or vectors.shape[0] != batch:
        return None
    return count if count in (batch, x.numel() // channels) else None


def _spread(vectors: Tensor | None, y: Tensor) -> Spread:
    count = 0 if vectors is None else vectors.numel() // y.shape[-1]
    return Spread(_at(vectors), y.numel() // y.shape[-1] // count if count > 1 else 0)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _numbers(tensor: Tensor) -> Tensor:
    """In float32 and in order; the tensor itself where it is."""
    tensor = tensor if tensor.dtype == torch.float32 else tensor.float()
    return tensor.contiguous()


def _panels(rows: Tensor, columns: int) -> Tensor:
    """(N, r) as (N / columns, r, columns), the last panel filled up with zeros."""
    padded = F.pad(rows, (0, 0, 0, -len(rows) % columns))
    return padded.unflatten(0, (-1, columns)).transpose(1, 2).contiguous()

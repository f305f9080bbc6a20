"""The compiled CPU kernels as the target calls them: what is fixed is laid out once, what varies is passed by address.

A kernel is called with the values of its arguments that are `ops.Slot`s, in order, where `fits` says that it can serve them.
`results` makes room for what it returns; `bind` puts every address of a call in place and gives back what runs it, as often as
one likes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.cpu.binding import Bound, Run, collected, spread, staged
from aquatint.runtime.cpu.native import GroupAffineCall, KernelSet, ProductCall, QuantizeCall, Window
from aquatint.runtime.cpu.pack import GROUP, packed_down, packed_up, packed_weight, panels
from aquatint.runtime.layout import at, can_spread, in_turns, output_size

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")  # in the order of csrc/cpu/kernel_table.h
FEW_ROWS = 16  # up to here a product is limited by reading its weight


class BoundKernel:
    """Called at once: room is made, the call is bound, and run."""

    fits: Callable[..., bool]
    results: Callable[..., Any]
    bind: Callable[..., Run]

    def __call__(self, *values: Tensor) -> Any:
        results = self.results(*values)
        self.bind(results, *values)()
        return results


class QuantizeKernel(BoundKernel):
    """aquatint::quantize with its vectors laid out for the kernel; called with x and what else varies."""

    def __init__(
        self, kernels: KernelSet, x: Any, smooth: Tensor | None = None, down: Tensor | None = None, gain: Any = None,
        offset: Any = None, *, format: str, axis: int = -1, eps: float | None = None, activation: str | None = None,
        branch: str | None = None,
    ) -> None:  # fmt: skip
        self.kernels, self.axis, self.format = kernels, axis, format_named(format)
        self.affine = gain, offset
        self.smooth = None if smooth is None else smooth.float().contiguous()
        self.down = None if down is None else packed_down(kernels, down, branch)
        self.rank = 0 if down is None else len(down)
        self.call = QuantizeCall(
            smooth=at(self.smooth), rank=self.rank, eps=-1.0 if eps is None else eps,
            activation=ACTIVATIONS.index(activation), bits=self.format.bits,
        )  # fmt: skip
        if self.down is not None:
            self.call.down, self.call.down_scales = at(self.down.panels), at(self.down.scales)
            self.call.branch_bits = self.down.bits

    def fits(self, x: Tensor, *varying: Tensor) -> bool:
        shape = _last(x.shape, self.axis)
        return shape[-1] % GROUP == 0 and all(can_spread(v, shape) for v in ops.filled(self.affine, varying))

    def results(self, x: Tensor, *varying: Tensor) -> tuple[Tensor, ...]:
        *outer, k = _last(x.shape, self.axis)
        bits, groups = self.format.bits, k // (self.format.group or k)
        codes = torch.empty(*outer, k * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
        scales = torch.empty(*outer, groups, dtype=torch.bfloat16 if self.format.scale == "bfloat16" else torch.float32)
        return (codes, scales, torch.empty(*outer, self.rank)) if self.rank else (codes, scales)

    def bind(self, results: tuple[Tensor, ...], x: Tensor, *varying: Tensor) -> Run:
        vectors, shape = ops.filled(self.affine, varying), _last(x.shape, self.axis)
        codes, scales, *h = results
        rows, before = staged(x.movedim(self.axis, -1))
        numbers, after = (scales, []) if scales.dtype == torch.float32 else collected(scales)
        spreads = [spread(v, shape) for v in vectors]
        call = self.into(codes, numbers, *h)
        call.x = at(rows)
        call.gain, call.offset = (found for found, _, _ in spreads)
        before += [refresh for _, _, refreshes in spreads for refresh in refreshes]
        held = (rows, spreads, results)
        return Bound(self.kernels, self.kernels.library.aq_quantize, call, held, before, after)

    def into(self, codes: Tensor, scales: Tensor, h: Tensor | None = None) -> QuantizeCall:
        """A call with its results in place, and without what it reads."""
        call = QuantizeCall.from_buffer_copy(self.call)
        call.k = codes.shape[-1] * 8 // self.format.bits
        call.m, call.group = codes.numel() // codes.shape[-1], self.format.group or call.k
        call.codes, call.scales, call.h = at(codes), at(scales), at(h)
        call.held = self, codes, scales, h
        return call


class GroupAffineKernel(BoundKernel):
    """aquatint::group_affine of images whose channels lie last in memory; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
    ) -> None:
        self.kernels = kernels
        self.weight, self.bias = (None if v is None else v.float().contiguous() for v in (weight, bias))
        self.call = GroupAffineCall(weight=at(self.weight), bias=at(self.bias), groups=groups, eps=eps)

    def fits(self, x: Tensor) -> bool:
        return x.movedim(1, -1).is_contiguous() and x.dtype == torch.float32

    def results(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = len(x), *[1] * (x.dim() - 2), x.shape[1]
        return torch.empty(shape), torch.empty(shape)

    def bind(self, results: tuple[Tensor, Tensor], x: Tensor, after: Sequence[Run] = ()) -> Run:
        call = GroupAffineCall.from_buffer_copy(self.call)
        call.x, call.images, call.pixels, call.channels = at(x), len(x), x[0, 0].numel(), x.shape[1]
        call.gain, call.offset = map(at, results)
        return Bound(self.kernels, self.kernels.library.aq_group_affine, call, (self, x, results), after=after)


class _Product:
    """A weight of 4 or 8 bits with its scales, bias and up-projection, in panels as the product reads them; its epilogue."""

    def __init__(
        self, kernels: KernelSet, weight: Tensor, scales: Tensor, bias: Tensor | None, up: Tensor | None, format: str,
        bits: int, dtype: torch.dtype, activation: str | None, gate: Any = None, residual: Any = None,
        active: int | None = None,
    ) -> None:  # fmt: skip
        self.kernels, self.dtype, self.epilogue = kernels, dtype, (gate, residual)
        columns, rows = kernels.columns, len(weight)
        self.n = rows if active is None else rows // 2
        order = None if active is None else in_turns(rows, columns, active)
        if order is not None:
            bias, up = (None if t is None else t[order] for t in (bias, up))
        self.weight = packed_weight(kernels, weight, scales, format, bits == 32, order)
        self.bias = None if bias is None else panels(bias.float().unsqueeze(1), columns)
        self.up = None if up is None else packed_up(kernels, up)
        self.call = ProductCall(
            weight=at(self.weight.panels), weight_scales=at(self.weight.scales), wholes=at(self.weight.wholes),
            bias=at(self.bias), n=self.n, k=self.weight.k,
            rank=0 if up is None else up.shape[1], bits=bits, weight_bits=self.weight.bits,
            weight_groups=self.weight.groups, activation=ACTIVATIONS.index(activation), paired=active is not None,
        )  # fmt: skip
        if self.up is not None:
            self.call.up, self.call.up_scales, self.call.branch_bits = at(self.up.panels), at(self.up.scales), self.up.bits

    def results(self, *outer: int) -> Tensor:
        return torch.empty(*outer, self.n, dtype=self.dtype)

    def bind(
        self, y: Tensor, x: Tensor, scales: Tensor | None = None, h: Tensor | None = None, varying: Sequence[Tensor] = (),
        window: Window | None = None, table: Tensor | None = None, next: QuantizeCall | None = None,
    ) -> Run:  # fmt: skip
        """y (..., N) of codes or numbers x; `varying` are gate and residual, channels last; the window reads `table`.

        With `next` y is read by that call alone, in the same run, and needs no memory.
        """
        if y.numel() == 0:
            return lambda: None
        call = ProductCall.from_buffer_copy(self.call)
        call.m, call.scale_groups = y.numel() // self.n, 0 if scales is None else scales.shape[-1]
        vectors = ops.filled(self.epilogue, varying)
        before: list[Run] = []
        held: list[Any] = [self, window, table]
        for name, tensor in (("x", x), ("scales", scales), ("h", h)):
            if tensor is not None:
                rows, refreshes = staged(tensor)
                before += refreshes
                held.append(rows)
                setattr(call, name, at(rows))
        numbers, after = (y, []) if y.dtype == torch.float32 else collected(y)
        call.y = at(numbers)
        if all(can_spread(v, y.shape) for v in vectors):
            spreads = [spread(v, y.shape) for v in vectors]
            call.gate, call.residual = (found for found, _, _ in spreads)
            before += [refresh for _, _, refreshes in spreads for refresh in refreshes]
            held.append(spreads)
        else:  # in a shape that the kernel does not spread
            after.insert(0, lambda: _finish(numbers, *vectors))
        if window:
            call.window = ctypes.pointer(window)
        if next:
            call.next = ctypes.pointer(next)
        return Bound(self.kernels, self.kernels.library.aq_product, call, (held, numbers, y, next), before, after)


class GemmKernel(BoundKernel):
    """aquatint::gemm of codes; called with codes, scales and what else varies: h, gate, residual."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None, gate: Any = None, residual: Any = None,
        active: int | None = None,
    ) -> None:  # fmt: skip
        bits, self.branch = format_named(formats[0]).bits, int(h is not None)
        up = up if self.branch else None
        self.product = _Product(
            kernels, weight, weight_scales, bias, up, formats[1], bits, dtype, activation, gate, residual, active
        )

    def fits(self, *values: Tensor) -> bool:
        return True

    def results(self, codes: Tensor, *values: Tensor) -> Tensor:
        return self.product.results(*codes.shape[:-1])

    def bind(self, results: Tensor, codes: Tensor, scales: Tensor, *varying: Tensor, next: QuantizeCall | None = None) -> Run:
        h = varying[0] if self.branch else None
        return self.product.bind(results, codes, scales, h, varying[self.branch :], next=next)


class FloatGemmKernel(BoundKernel):
    """aquatint::gemm of plain numbers by a weight that is stored small; called with x."""

    def __init__(
        self, kernels: KernelSet, x: Any, scales: None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: None = None, up: None = None, *,
        formats: tuple[None, str], dtype: torch.dtype, activation: str | None = None, gate: None = None, residual: None = None,
    ) -> None:  # fmt: skip
        self.product = _Product(kernels, weight, weight_scales, bias, None, formats[1], 32, dtype, activation)

    def fits(self, x: Tensor) -> bool:
        return self.product.kernels.alone or x.numel() <= FEW_ROWS * x.shape[-1]

    def results(self, x: Tensor) -> Tensor:
        return self.product.results(*x.shape[:-1])

    def bind(self, results: Tensor, x: Tensor) -> Run:
        return self.product.bind(results, x)


class ConvolutionKernel(BoundKernel):
    """aquatint::conv2d as a product over pixels; called with codes, scales and what else varies: h, gate, residual, table."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, stride: list[int], padding: list[int], dilation: list[int],
        activation: str | None = None, gate: Any = None, residual: Any = None, table: Any = None,
    ) -> None:  # fmt: skip
        self.bits, self.branch = format_named(formats[0]).bits, int(h is not None)
        self.geometry, self.at_places = (list(weight.shape[1:3]), stride, padding, dilation), table is not None
        gate, residual = (v.movedim(-3, -1) if isinstance(v, Tensor) else v for v in (gate, residual))
        up = up if self.branch else None
        self.product = _Product(
            kernels, weight, weight_scales, bias, up, formats[1], self.bits, dtype, activation, gate, residual
        )

    def fits(self, *values: Tensor) -> bool:
        return True

    def results(self, codes: Tensor, *values: Tensor) -> Tensor:
        size = [len(values[-1]), 1] if self.at_places else output_size(codes.shape[1:3], *self.geometry)
        return self.product.results(len(codes), *size).permute(0, 3, 1, 2)

    def bind(self, results: Tensor, codes: Tensor, scales: Tensor, *varying: Tensor) -> Run:
        h = varying[0] if self.branch else None
        table = varying[-1].contiguous() if self.at_places else None
        others = [v.movedim(-3, -1) for v in varying[self.branch : len(varying) - self.at_places]]
        _, height, width, stored = codes.shape
        window = window_of((height, width, stored * 8 // self.bits), results.shape[2:], self.geometry, table)
        return self.product.bind(results.permute(0, 2, 3, 1), codes, scales, h, others, window, table)


def window_of(image: Sequence[int], size: Sequence[int], geometry: Sequence[Sequence[int]], table: Tensor | None) -> Window:
    """What a convolution reads of an image (height, width, channels); geometry: kernel, stride, padding, dilation."""
    pairs = [(ctypes.c_int64 * 2)(*pair) for pair in geometry]
    return Window(*image, *size, *pairs, at(table))


def _finish(y: Tensor, gate: Tensor | None, residual: Tensor | None) -> None:
    if gate is not None:
        y.mul_(gate.float())
    if residual is not None:
        y.add_(residual.float())


def _last(shape: Sequence[int], axis: int) -> list[int]:
    """`shape` with `axis` moved last."""
    moved = list(shape)
    moved.append(moved.pop(axis))
    return moved

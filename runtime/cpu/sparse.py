"""What an edit runs: products of some rows, and rows out of what was kept and back into it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime.cpu.aten import DepthwiseWeight, FloatWeight
from aquatint.runtime.cpu.binding import Bound, Run, staged
from aquatint.runtime.cpu.kernels import BoundKernel, window_of
from aquatint.runtime.cpu.native import KernelSet, LinearCall, MovedAffineCall, RecallCall, Window
from aquatint.runtime.cpu.pack import panels
from aquatint.runtime.layout import at, output_size


class RowwiseLinear(BoundKernel):
    """aquatint::rowwise_linear; called with x."""

    def __init__(self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        self.product = FloatWeight(kernels, weight, bias, rowwise=True)

    def fits(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.numel() > 0

    def results(self, x: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], self.product.shape[0])

    def bind(self, results: Tensor, x: Tensor) -> Run:
        rows, before = staged(x)
        return self.product.bind(results, rows, before)


class RowwiseMatmul(BoundKernel):
    """aquatint::rowwise_matmul, one product after the other; called with x and the weight."""

    def __init__(self, kernels: KernelSet, x: Any, weight: Any) -> None:
        self.kernels = kernels

    def fits(self, x: Tensor, weight: Tensor) -> bool:
        return x.shape[:-2] == weight.shape[:-2] and x.dtype == weight.dtype == torch.float32 and x.numel() > 0

    def results(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], weight.shape[-2])

    def bind(self, results: Tensor, x: Tensor, weight: Tensor) -> Run:
        (rows, before), (weights, more) = staged(x), staged(weight)
        (m, k), n = x.shape[-2:], weight.shape[-2]
        parts = zip(rows.view(-1, m, k), weights.view(-1, n, k), results.view(-1, m, n), strict=True)
        calls = [LinearCall(x=at(a), weight=at(w), m=m, n=n, k=k, y=at(y)) for a, w, y in parts]
        kernel = self.kernels.library.aq_linear
        runs = [Bound(self.kernels, kernel, call, (rows, weights, results)) for call in calls]

        def run() -> None:
            for step in (*before, *more, *runs):
                step()

        return run


class RowwiseConvolution(BoundKernel):
    """aquatint::rowwise_conv2d; called with x and, for an edit, the table, and the squares where it goes by squares."""

    def __init__(
        self, kernels: KernelSet, x: Any, weight: Tensor, bias: Tensor | None = None, *,
        stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int = 1, by_squares: bool = False,
        table: Any = None, squares: Any = None,
    ) -> None:  # fmt: skip
        self.geometry = list(weight.shape[2:]), stride, padding, dilation
        self.outputs, self.squares = len(weight), SquareWeight(kernels, weight, bias) if by_squares else None
        self.product: FloatWeight | DepthwiseWeight | None = None
        if groups > 1:
            self.product = DepthwiseWeight(kernels, weight, bias)
        elif not by_squares:
            self.product = FloatWeight(kernels, weight.permute(0, 2, 3, 1).flatten(1), bias, rowwise=True)

    def fits(self, x: Tensor, *table: Tensor) -> bool:
        return x.dim() == 4 and x.dtype == torch.float32 and x.numel() > 0

    def results(self, x: Tensor, *table: Tensor) -> Tensor:
        size = [len(table[0]), 1] if table else output_size(x.shape[2:], *self.geometry)
        return torch.empty(len(x), *size, self.outputs).permute(0, 3, 1, 2)

    def bind(self, results: Tensor, x: Tensor, *table: Tensor) -> Run:
        rows, before = staged(x.movedim(1, -1))
        places = table[-1].contiguous() if table else None
        window = window_of((*x.shape[2:], x.shape[1]), results.shape[2:], self.geometry, places)
        if self.squares:
            return self.squares.bind(results.movedim(1, -1), rows, before, window, places)
        assert self.product
        return self.product.bind(results.movedim(1, -1), rows, before, window, table=places)


class SquareWeight:
    """The weight (N, K, 3, 3) of a convolution by squares, as G g Gᵀ in panels: csrc/cpu/winograd.h."""

    def __init__(self, kernels: KernelSet, weight: Tensor, bias: Tensor | None) -> None:
        g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
        spread = (g @ weight.double() @ g.T).float().flatten(2)
        self.kernels, self.shape = kernels, weight.shape[:2]
        self.weight = torch.stack([panels(part, kernels.columns) for part in spread.unbind(2)], 1)
        self.bias = None if bias is None else bias.float().contiguous()

    def bind(self, y: Tensor, x: Tensor, before: Sequence[Run], window: Window, squares: Tensor | None) -> Run:
        n, k = self.shape
        window.squares = len(squares) if squares is not None else (window.rows + 1) // 2 * ((window.columns + 1) // 2)
        call = LinearCall(x=at(x), weight=at(self.weight), bias=at(self.bias), m=len(x) * window.squares, n=n, k=k, y=at(y))
        call.window = ctypes.pointer(window)
        return Bound(self.kernels, self.kernels.library.aq_winograd, call, (x, window, squares, y, self), before)


class TakeKernel(BoundKernel):
    """aquatint::take in the order that x has in memory; called with x and the index."""

    def __init__(self, kernels: KernelSet, x: Any, index: Any, *, axis: int, axes: int = 1) -> None:
        self.axis, self.axes = axis, axes

    def fits(self, x: Tensor, index: Tensor) -> bool:
        strides = x.stride()[self.axis : self.axis + self.axes]
        return all(a == b * size for a, b, size in zip(strides, strides[1:], x.shape[self.axis + 1 :], strict=False))

    def results(self, x: Tensor, index: Tensor) -> Tensor:
        shape = [*x.shape[: self.axis], len(index), *[1] * (self.axes - 1), *x.shape[self.axis + self.axes :]]
        order = self._order(x)
        return torch.empty([shape[d] for d in order]).to(x.dtype).permute(_inverse(order))

    def bind(self, results: Tensor, x: Tensor, index: Tensor) -> Run:
        last = self.axis + self.axes - 1
        source, target = x.flatten(self.axis, last), results.flatten(self.axis, last)
        order = sorted(range(source.dim()), key=lambda d: -source.stride(d))
        place, source, target = order.index(self.axis), source.permute(order), target.permute(order)
        return lambda: torch.index_select(source, place, index, out=target)

    def _order(self, x: Tensor) -> list[int]:
        """Axes as they lie in memory, the axes of places side by side."""
        outer = sorted((d for d in range(x.dim()) if d not in self._places()[1:]), key=lambda d: -x.stride(d))
        at_place = outer.index(self.axis)
        return [*outer[: at_place + 1], *self._places()[1:], *outer[at_place + 1 :]]

    def _places(self) -> list[int]:
        return list(range(self.axis, self.axis + self.axes))


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda i: order[i])


class RecallKernel(BoundKernel):
    """aquatint::recall; called with codes, scales where the format has them, the index, and the rows to come before, if any."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, index: Any, rows: Any = None, *, format: str | None = None
    ) -> None:  # fmt: skip
        self.kernels, self.format = kernels, format_named(format) if format else None

    def fits(self, codes: Tensor, *others: Tensor) -> bool:
        return codes.is_contiguous() and (self.format is not None or codes.dtype == torch.float32)

    def results(self, codes: Tensor, *others: Tensor) -> Tensor:
        index, *before = others[1:] if self.format else others
        return torch.empty(len(codes), len(index) + sum(rows.shape[1] for rows in before), self._width(codes))

    def bind(self, results: Tensor, codes: Tensor, *others: Tensor) -> Run:
        scales, index, *before = others if self.format else (None, *others)
        return self.run(results, codes, scales, index, *before)

    def run(
        self, results: Tensor, codes: Tensor, scales: Tensor | None, index: Tensor | None, before: Tensor | None = None
    ) -> Run:
        width = self._width(codes)
        ahead, refresh = (None, []) if before is None else staged(before)
        rows = 0 if ahead is None else ahead.shape[1]
        call = RecallCall(
            at(codes), at(scales), at(index), at(ahead), len(codes), codes.shape[1], results.shape[1] - rows, rows, width,
            (self.format and self.format.group) or width, self.format.bits if self.format else 32, at(results),
        )  # fmt: skip
        return Bound(self.kernels, self.kernels.library.aq_recall, call, (results, codes, scales, index, ahead), refresh)

    def _width(self, codes: Tensor) -> int:
        return codes.shape[-1] * 8 // self.format.bits if self.format else codes.shape[-1]


class MergeKernel(BoundKernel):
    """aquatint::merge; called with codes, scales where the format has them, rows and the index."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, rows: Any, index: Any, *, format: str | None = None
    ) -> None:
        self.recall = RecallKernel(kernels, codes, scales, index, format=format)
        self.fits = self.recall.fits

    def results(self, codes: Tensor, *others: Tensor) -> Tensor:
        return torch.empty(len(codes), codes.shape[1], self.recall._width(codes))

    def bind(self, results: Tensor, codes: Tensor, *others: Tensor) -> Run:
        *scales, rows, index = others
        recall = self.recall.run(results, codes, scales[0] if scales else None, None)

        def run() -> None:
            recall()
            results.index_copy_(1, index, rows)

        return run


class MovedAffineKernel(BoundKernel):
    """aquatint::moved_affine; called with gain, offset, and the rows before and now."""

    def __init__(
        self, kernels: KernelSet, gain: Any, offset: Any, old: Any, new: Any, *, groups: int, count: int, eps: float
    ) -> None:
        self.kernels, self.call = kernels, MovedAffineCall(groups=groups, places=count, eps=eps)

    def fits(self, gain: Tensor, offset: Tensor, old: Tensor, new: Tensor) -> bool:
        return all(v.dtype == torch.float32 for v in (gain, offset, old, new))

    def results(self, gain: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty(gain.shape), torch.empty(gain.shape)

    def bind(self, results: tuple[Tensor, Tensor], *values: Tensor) -> Run:
        call = MovedAffineCall.from_buffer_copy(self.call)
        ordered, refreshes = zip(*map(staged, values), strict=True)
        call.gain, call.offset, call.before, call.now = map(at, ordered)
        call.images, call.rows, call.channels = ordered[3].shape
        call.new_gain, call.new_offset = map(at, results)
        before = [refresh for each in refreshes for refresh in each]
        return Bound(self.kernels, self.kernels.library.aq_moved_affine, call, (ordered, results), before)

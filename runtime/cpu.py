"""The CPU target: 4-bit linears with their low-rank branch by the compiled kernels, the rest by its meaning."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime.native import KernelSet, LinearCall, QuantizeCall, best_kernel_set, library_paths
from aquatint.runtime.ops import ACTIVATIONS

INPUT_FORMATS = ("int8", "int4-g64")
WEIGHT_FORMAT = "int4-g64"


@dataclass(frozen=True)
class Cpu:
    """kernels: of the best instruction set here, or of one that a test asks for; None runs every operator's meaning."""

    kernels: KernelSet | None
    name: str = "cpu"

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        row = {"aquatint::quantize": (quantize_refusal, QuantizeKernel), "aquatint::gemm": (gemm_refusal, GemmKernel)}.get(
            operator
        )
        if row is None or self.kernels is None or row[0](*args, **kwargs) is not None:
            return None
        return row[1](self.kernels, *args, **kwargs)


def cpu() -> Cpu:
    """The target with the fastest kernels of this machine; warns when the library was not built."""
    kernels = best_kernel_set()
    if kernels is None:
        places = " or ".join(str(path) for path in library_paths())
        warnings.warn(f"the compiled CPU kernels are not at {places}: running by the operators' meaning", stacklevel=3)
    return Cpu(kernels)


def quantize_refusal(x: Any, smooth: Any = None, down: Any = None, *, format: str, axis: int = -1) -> str | None:
    """Why there is no kernel for this quantize, or None."""
    return None if format in INPUT_FORMATS else f"no kernel quantizes to {format}"


def gemm_refusal(
    codes: Any, scales: Any, weight: Any, weight_scales: Any, bias: Any = None, h: Any = None, up: Any = None, *,
    formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None,
) -> str | None:  # fmt: skip
    """Why there is no kernel for this gemm, or None."""
    if formats[0] not in INPUT_FORMATS or formats[1] != WEIGHT_FORMAT:
        return f"no kernel multiplies {formats[0]} by {formats[1]}"
    return None if isinstance(weight, Tensor) and isinstance(weight_scales, Tensor) else "the weight is not fixed"


class QuantizeKernel:
    """aquatint::quantize with its vectors laid out for the kernel; called with x alone."""

    def __init__(
        self, kernels: KernelSet, x: Any, smooth: Tensor | None = None, down: Tensor | None = None, *,
        format: str, axis: int = -1,
    ) -> None:  # fmt: skip
        self.kernels, self.axis = kernels, axis
        self.format = format_named(format)
        self.smooth = None if smooth is None else smooth.float().contiguous()
        self.down = None if down is None else _panels(down.float(), kernels.columns)
        self.rank = 0 if down is None else len(down)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.movedim(self.axis, -1).float().contiguous()
        *outer, k = x.shape
        if reason := self.format.refusal(k):
            raise ValueError(reason)
        bits, group = self.format.bits, self.format.group or k
        codes = torch.empty(*outer, k * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
        scales = torch.empty(*outer, k // group)
        h = torch.empty(*outer, self.rank) if self.down is not None else None
        call = QuantizeCall(
            _at(x), _at(self.smooth), _at(self.down), x.numel() // k, k, self.rank, group, bits,
            _at(codes), _at(scales), _at(h),
        )  # fmt: skip
        self.kernels.library.aq_quantize(self.kernels.table, ctypes.byref(call), torch.get_num_threads())
        scales = scales.bfloat16() if self.format.scale == "bfloat16" else scales
        return (codes, scales) if h is None else (codes, scales, h)


class GemmKernel:
    """aquatint::gemm with its weight packed in panels; called with codes, scales and, with a branch, h."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None,
    ) -> None:  # fmt: skip
        self.kernels, self.dtype = kernels, dtype
        self.bits = format_named(formats[0]).bits
        self.activation = ACTIVATIONS[activation] if activation else None
        self.n, self.k, self.groups = len(weight), 2 * weight.shape[1], weight_scales.shape[1]
        self.rank = 0 if up is None else up.shape[1]
        self.weight = _packed(kernels, weight.contiguous(), self.n, self.k)
        self.weight_scales = _panels(weight_scales.float(), kernels.columns)
        self.bias = None if bias is None else _panels(bias.float().unsqueeze(1), kernels.columns)
        self.up = None if up is None else _panels(up.float(), kernels.columns)

    def __call__(self, codes: Tensor, scales: Tensor, h: Tensor | None = None) -> Tensor:
        codes, scales = codes.contiguous(), scales.float().contiguous()
        h = None if h is None else h.float().contiguous()
        outer = codes.shape[:-1]
        m = codes.numel() // codes.shape[-1]
        sums = torch.empty(m, self.groups, dtype=torch.int32)
        codes_as_bytes = torch.empty(m, self.k, dtype=torch.int8)
        y = torch.empty(*outer, self.n)
        call = LinearCall(
            _at(codes), _at(scales), _at(self.weight), _at(self.weight_scales), _at(self.bias), _at(h), _at(self.up),
            m, self.n, self.k, self.rank, scales.shape[-1], self.bits, _at(codes_as_bytes), _at(sums), _at(y),
        )  # fmt: skip
        self.kernels.library.aq_linear(self.kernels.table, ctypes.byref(call), torch.get_num_threads())
        return (self.activation(y) if self.activation else y).to(self.dtype)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _panels(rows: Tensor, columns: int) -> Tensor:
    """(N, r) as (N / columns, r, columns), the last panel filled up with zeros."""
    padded = F.pad(rows, (0, 0, 0, -len(rows) % columns))
    return padded.unflatten(0, (-1, columns)).transpose(1, 2).contiguous()


def _packed(kernels: KernelSet, codes: Tensor, n: int, k: int) -> Tensor:
    packed = torch.empty(kernels.library.aq_packed_bytes(kernels.table, n, k), dtype=torch.uint8)
    kernels.library.aq_pack_weight(kernels.table, _at(codes), n, k, _at(packed))
    return packed

"""The CPU target: 4-bit products with their low-rank branch by the compiled kernels, the rest by its meaning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cpu.aten import (
    AttentionKernel,
    ByteWeightKernel,
    FloatConvolution,
    GroupNormKernel,
    LinearKernel,
    is_depthwise,
)
from aquatint.runtime.cpu.joined import GemmQuantizeKernel
from aquatint.runtime.cpu.kernels import (
    GROUP,
    ConvolutionKernel,
    FloatGemmKernel,
    GemmKernel,
    GroupAffineKernel,
    QuantizeKernel,
)
from aquatint.runtime.cpu.native import KernelSet, best_kernel_set, library_paths
from aquatint.runtime.cpu.sparse import (
    MergeKernel,
    MovedAffineKernel,
    RecallKernel,
    RowwiseConvolution,
    RowwiseLinear,
    RowwiseMatmul,
    TakeKernel,
)
from aquatint.runtime.ops.meanings import is_plain_attention
from aquatint.runtime.ops.sparse import can_go_by_squares

INPUT_FORMATS = ("int8", "int4-g64")
WEIGHT_FORMATS = ("int4-g64", "int4-g64-whole")


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel: the operator that it serves, why it can't serve a call (or None), and how it is made.

    wide   only where products of bytes go into 32 bits: into 16, those of two weights of 8 bits may not fit
    alone  only where no library is beside the kernels
    """

    operator: str
    refusal: Callable[..., str | None]
    make: Callable[..., Callable[..., Any]]
    wide: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Cpu:
    """kernels: of the best instruction set here, or of one that a test asks for; None runs every operator's meaning."""

    kernels: KernelSet | None
    name: str = "cpu"
    rotates: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def gates(self, columns: int) -> bool:
        return self.kernels is not None and self.kernels.tiles and columns % self.kernels.columns == 0

    def joins(self, columns: int, format: str) -> bool:
        return self.kernels is not None and self.kernels.tiles and format == "int8" and columns % GROUP == 0

    def turns(self, width: int, formats: tuple[str, str]) -> bool:
        return False

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.kernels is None:
            return None
        wide, alone = self.kernels.wide_sums, self.kernels.alone
        here = (k for k in KERNELS if k.operator == operator and (wide or not k.wide) and (alone or not k.alone))
        found = next((k for k in here if k.refusal(*args, **kwargs) is None), None)
        return found.make(self.kernels, *args, **kwargs) if found else None


def cpu() -> Cpu:
    """The target with the fastest kernels of this machine; warns when the library was not built."""
    kernels = best_kernel_set()
    if kernels is None:
        places = " or ".join(str(path) for path in library_paths())
        warnings.warn(f"the compiled CPU kernels are not at {places}: running by the operators' meaning", stacklevel=3)
    return Cpu(kernels)


def quantize_refusal(x: Any, smooth: Any = None, down: Any = None, *affine: Any, format: str, **options: Any) -> str | None:
    """Why there is no kernel for this quantize, or None."""
    if format not in INPUT_FORMATS:
        return f"no kernel quantizes to {format}"
    return None if _fixed(smooth) and _fixed(down) else "smoothing or down-projection is not fixed"


def product_refusal(
    inputs: tuple[str | None, ...], codes: Any, scales: Any, weight: Any, weight_scales: Any, bias: Any = None, h: Any = None,
    up: Any = None, smooth: Any = None, down: Any = None, *,
    formats: tuple[str | None, str], stored: tuple[str, ...] = WEIGHT_FORMATS, **options: Any,
) -> str | None:  # fmt: skip
    """Why there is no kernel for this product, or None; `inputs` are the formats that the kernel reads, None plain numbers."""
    if formats[0] not in inputs or formats[1] not in stored:
        return f"no kernel multiplies {formats[0] or 'plain numbers'} by {formats[1]}"
    if formats[0] is None and any(v is not None for v in (h, options.get("gate"), options.get("residual"))):
        return "no kernel adds a branch, gate or residual to a product of plain numbers"
    if formats[1] == "int8" and formats[0] is not None and isinstance(weight, Tensor) and weight.shape[-1] % GROUP:
        return f"K={weight.shape[-1]} is not a multiple of {GROUP}"
    fixed = isinstance(weight, Tensor) and isinstance(weight_scales, Tensor) and all(map(_fixed, (bias, up, smooth, down)))
    return None if fixed else "weight, bias, smoothing or a projection is not fixed"


def _fixed(value: Any) -> bool:
    return value is None or isinstance(value, Tensor)


def convolution_refusal(x: Any, weight: Any, bias: Any = None, *geometry: Any, **options: Any) -> str | None:
    """Why there is no kernel for this convolution of plain numbers, or None."""
    fixed = isinstance(weight, Tensor) and weight.dim() == 4 and _fixed(bias)
    return None if fixed else "weight or bias is not fixed"


def spatial_refusal(x: Any, weight: Any, bias: Any = None, *geometry: Any, **options: Any) -> str | None:
    """The same where products over pixels are the library's, or None."""
    reason = convolution_refusal(x, weight, bias)
    return reason or ("it is a product over pixels" if weight.shape[2:].numel() == 1 else None)


def affine_refusal(x: Any, groups: Any, weight: Any = None, bias: Any = None, *eps: Any, **options: Any) -> str | None:
    """Why there is no kernel for this group norm, or None."""
    return None if _fixed(weight) and _fixed(bias) else "weight or bias is not fixed"


def attention_refusal(q: Any, k: Any, v: Any, *others: Any, **options: Any) -> str | None:
    """Why there is no kernel for this attention, or None."""
    if not is_plain_attention(q, k, v, *others, **options):
        return "no kernel masks, drops or shares heads"
    if options.get("format", "float32") not in ("float32", "bfloat16"):
        return f"no kernel attends in {options['format']}"
    number = options.get("scale")
    return None if number is None or isinstance(number, float) else "its scale is not fixed"


def linear_refusal(x: Any, weight: Any, bias: Any = None) -> str | None:
    """Why there is no kernel for this product of plain numbers, or None."""
    fixed = isinstance(weight, Tensor) and weight.dtype == torch.float32 and _fixed(bias)
    return None if fixed else "weight or bias is not fixed, or not in float32"


def rowwise_refusal(
    x: Any, weight: Any, bias: Any = None, *, groups: int = 1, by_squares: bool = False, **options: Any
) -> str | None:
    """Why there is no kernel for this product of some rows, or None."""
    known = isinstance(weight, Tensor)
    if by_squares and not (known and can_go_by_squares(weight.shape, options["stride"], options["dilation"], groups)):
        return "it can't go by squares"
    served = known and (groups == 1 or is_depthwise(weight, groups))
    return linear_refusal(x, weight, bias) if served or not known else "channels are in groups"


def matmul_refusal(x: Any, weight: Any) -> str | None:
    """Why there is no kernel for this product of two values, or None."""
    return "one of them is a weight" if isinstance(x, Tensor) or isinstance(weight, Tensor) else None


def kept_refusal(*values: Any, format: str | None = None) -> str | None:
    """Why there is no kernel that reads what was kept, or None."""
    return None if format in (None, *INPUT_FORMATS) else f"no kernel reads {format}"


def moved_refusal(*values: Any, **options: Any) -> str | None:
    """Why there is no kernel for these moved statistics, or None."""
    return "they are fixed" if any(isinstance(v, Tensor) for v in values) else None


def take_refusal(x: Any, index: Any, **axes: Any) -> str | None:
    """Why there is no kernel that takes these rows, or None."""
    return "it takes rows of a weight" if isinstance(x, Tensor) else None


KERNELS = (
    Kernel("aquatint::quantize", quantize_refusal, QuantizeKernel),
    Kernel("aquatint::group_affine", affine_refusal, GroupAffineKernel),
    Kernel("aquatint::gemm", partial(product_refusal, INPUT_FORMATS), GemmKernel),
    Kernel("aquatint::gemm", partial(product_refusal, INPUT_FORMATS, stored=("int8",)), GemmKernel, wide=True),
    Kernel("aquatint::gemm", partial(product_refusal, (None,)), FloatGemmKernel),
    Kernel("aquatint::gemm", partial(product_refusal, (None,), stored=("int8",)), ByteWeightKernel),
    Kernel(
        "aquatint::gemm_quantize", partial(product_refusal, INPUT_FORMATS, stored=(*WEIGHT_FORMATS, "int8")), GemmQuantizeKernel
    ),
    Kernel("aquatint::conv2d", partial(product_refusal, INPUT_FORMATS), ConvolutionKernel),
    Kernel("aquatint::conv2d", partial(product_refusal, INPUT_FORMATS, stored=("int8",)), ConvolutionKernel, wide=True),
    Kernel("aten::conv2d.default", spatial_refusal, FloatConvolution),
    Kernel("aten::conv2d.default", convolution_refusal, FloatConvolution, alone=True),
    Kernel("aten::group_norm.default", affine_refusal, GroupNormKernel),
    Kernel("aten::scaled_dot_product_attention.default", attention_refusal, AttentionKernel),
    Kernel("aquatint::attention", attention_refusal, AttentionKernel),
    Kernel("aten::linear.default", linear_refusal, LinearKernel),
    Kernel("aquatint::rowwise_linear", rowwise_refusal, RowwiseLinear),
    Kernel("aquatint::rowwise_matmul", matmul_refusal, RowwiseMatmul),
    Kernel("aquatint::rowwise_conv2d", rowwise_refusal, RowwiseConvolution),
    Kernel("aquatint::moved_affine", moved_refusal, MovedAffineKernel),
    Kernel("aquatint::take", take_refusal, TakeKernel),
    Kernel("aquatint::recall", kept_refusal, RecallKernel),
    Kernel("aquatint::merge", kept_refusal, MergeKernel),
)

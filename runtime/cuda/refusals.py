"""Why a call has no CUDA kernel, for each operator that has some: sentences for reports, or None where it has one.

Asked with what is known when a program is made ready: weights, formats, and `ops.Slot` for what varies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cuda.launch import COLUMNS, Family
from aquatint.runtime.cuda.sm80 import W4A4, W4A8, W8A8

MOST_RANKS = 64  # of a product
CONV_FORMATS = (W4A8, W8A8, W4A4)
GEMV_WEIGHTS = ("int4-g64", "int4-g64-whole", "int8")


def quantize_refusal(
    family: Family, x: Any, smooth: Any = None, down: Any = None, *affine: Any, format: str, **options: Any
) -> str | None:
    """Why the family has no kernel for this quantize, or None."""
    if format not in family.formats:
        return f"no kernel quantizes to {format}"
    if isinstance(down, Tensor) and (len(down) > family.most_ranks or len(down) % 8):
        return f"rank {len(down)} is above {family.most_ranks}, or not a multiple of 8"
    return None if _fixed(smooth) and _fixed(down) else "smoothing or down-projection is not fixed"


def product_refusal(
    family: Family, codes: Any, scales: Any, weight: Any, weight_scales: Any, bias: Any = None, h: Any = None,
    up: Any = None, *, formats: tuple[str | None, str], dtype: torch.dtype, **options: Any,
) -> str | None:  # fmt: skip
    """Why the family has no kernel for this product, or None."""
    if tuple(formats) not in family.products:
        return f"no kernel multiplies {formats[0] or 'plain numbers'} by {formats[1]}"
    if not (isinstance(weight, Tensor) and isinstance(weight_scales, Tensor) and _fixed(bias) and _fixed(up)):
        return "weight, bias or up-projection is not fixed"
    width = weight.shape[-1] * (1 if formats[1] == "int8" else 2)
    if dtype not in family.numbers:
        return _other(family, dtype)
    if options.get("active") is not None and options.get("activation") is None:
        return "no kernel multiplies halves of which neither is activated"
    multiple, each = COLUMNS[formats[0]], 16 if options.get("active") is not None else 8  # type: ignore[index]
    if len(weight) % each or width % multiple:
        return f"(N, K) = ({len(weight)}, {width}) are not multiples of ({each}, {multiple})"
    if isinstance(up, Tensor) and h is not None and (up.shape[1] > MOST_RANKS or up.shape[1] % 8):
        return f"rank {up.shape[1]} is above {MOST_RANKS}, or not a multiple of 8"
    return None


def conv_refusal(
    family: Family, codes: Any, scales: Any, weight: Any, weight_scales: Any, bias: Any = None, h: Any = None,
    up: Any = None, *, formats: tuple[str, str], dtype: torch.dtype, table: Any = None, **options: Any,
) -> str | None:  # fmt: skip
    """Why there is no kernel for this convolution, or None."""
    if tuple(formats) not in CONV_FORMATS:
        return f"no kernel convolves {formats[0]} by {formats[1]}"
    if table is not None:
        return "no kernel computes some outputs alone"
    return product_refusal(family, codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype)


def rotary_refusal(
    family: Family, x: Any, cos: Any, sin: Any, weight: Any = None, *, dtype: torch.dtype | None = None, **options: Any
) -> str | None:
    """Why there is no kernel for these rotary positions, or None."""
    if dtype is not None and dtype not in family.numbers:
        return _other(family, dtype)
    return None if _fixed(weight) else "the norm's weight is not fixed"


def angles_refusal(family: Family, cos: Any, sin: Any, **options: Any) -> str | None:
    """None: PyTorch's own kernels serve any."""
    return None


def turned_refusal(
    family: Family, codes: Any, scales: Any, weight: Any, weight_scales: Any, angles: Any, bias: Any = None,
    h: Any = None, up: Any = None, norm: Any = None, *, formats: tuple[str, str], dtype: torch.dtype, **options: Any,
) -> str | None:  # fmt: skip
    """Why the family has no kernel for this product of queries or keys, or None."""
    if family.turned is None:
        return f"no kernel for {family.name} turns what it multiplies"
    if not _fixed(norm):
        return "the norm's weight is not fixed"
    return product_refusal(family, codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype)


def moments_refusal(family: Family, x: Any, groups: Any, weight: Any = None, bias: Any = None, **options: Any) -> str | None:
    """Why there is no kernel for these statistics, or None."""
    return None if isinstance(groups, int) and _fixed(weight) and _fixed(bias) else "groups, weight or bias are not fixed"


def gemv_refusal(
    family: Family, x: Any, scales: Any, weight: Any, weight_scales: Any, bias: Any = None, h: Any = None, up: Any = None, *,
    formats: tuple[str | None, str], dtype: torch.dtype, activation: str | None = None, **options: Any,
) -> str | None:  # fmt: skip
    """Why there is no kernel for this product of plain numbers, or None."""
    if formats[0] is not None or formats[1] not in GEMV_WEIGHTS:
        return f"no kernel multiplies {formats[0] or 'plain numbers'} by {formats[1]}"
    if not (isinstance(weight, Tensor) and isinstance(weight_scales, Tensor) and _fixed(bias)):
        return "weight or bias is not fixed"
    if dtype not in family.numbers:
        return _other(family, dtype)
    if h is not None or any(value is not None for value in options.values()):
        return "a product of few rows has no branch, gate or residual"
    return f"K = {weight.shape[-1]} is not a multiple of 8" if formats[1] == "int8" and weight.shape[-1] % 8 else None


def _other(family: Family, dtype: torch.dtype) -> str:
    known = " or ".join(str(numbers).removeprefix("torch.") for numbers in family.numbers)
    return f"results are in {str(dtype).removeprefix('torch.')}: cast the model to {known} before it is compressed"


def _fixed(value: Any) -> bool:
    return value is None or isinstance(value, Tensor)

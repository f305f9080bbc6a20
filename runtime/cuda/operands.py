"""What kernels are handed on the GPU: tensors where and how they read them, and vectors that serve several rows."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cuda.calls import ProductCall, Spread
from aquatint.runtime.layout import at, can_spread


def ready(tensor: Tensor) -> Tensor:
    """In order, and at an address that sixteen bytes can be read from: itself, or a copy."""
    ordered = tensor.contiguous()
    return ordered if ordered.data_ptr() % 16 == 0 else ordered.clone()


def there(value: Any, device: torch.device, numbers: torch.dtype | None = None) -> Any:
    """A tensor that is fixed, on the device and, where they are given, in the model's numbers; anything else as it is."""
    return value.to(device, numbers or value.dtype) if isinstance(value, Tensor) else value


def finished(y: Tensor, gate: Tensor | None, residual: Tensor | None) -> Tensor:
    """What a product's epilogue does, for vectors that a kernel can't spread."""
    y = y if gate is None else (y * gate).to(y.dtype)
    return y if residual is None else (y + residual).to(y.dtype)


def spread(
    vectors: Tensor | None, shape: Sequence[int], numbers: torch.dtype, wide: bool = False
) -> tuple[Spread, Tensor | None]:
    """What tells the kernel where each row's vector lies, and the tensor that holds them; if `wide`, float32 may stay."""
    if vectors is None:
        return Spread(), None
    rows, width = torch.Size(shape[:-1]).numel(), shape[-1]
    floats = int(wide and vectors.dtype == torch.float32)
    given = vectors if floats else vectors.to(numbers)
    if given.numel() == width:
        one = ready(given.reshape(-1))
        return Spread(at(one), 1, 0, floats), one
    by_sample = given.numel() == len(given) * width
    if rows * rows * width // given.numel() >= 2**32:  # beyond what `inverse` divides exactly: a vector for each row
        inner = given.expand(*shape) if given.dim() == len(shape) else given
        return Spread(at(ordered := ready(inner)), 0, width, floats), ordered
    if by_sample and given.stride(-1) == 1 and given.stride(0) % 8 == 0 and given.data_ptr() % 16 == 0:
        return Spread(at(given), inverse(rows // len(given)), given.stride(0), floats), given
    ordered = ready(given)
    return Spread(at(ordered), inverse(rows * width // ordered.numel()), width, floats), ordered


def put_epilogue(
    call: ProductCall, vectors: Sequence[Tensor | None], shape: Sequence[int], numbers: torch.dtype, axis: int = -1
) -> list[Any] | None:
    """Gate and residual, their channels on `axis`, put where a kernel spreads them over rows of `shape`, channels last.

    Returns what it reads of them, to be kept until it is launched; None where they can't be spread: `finished` must follow.
    """
    if not all(v is None or (v.dim() >= -axis and can_spread(v.movedim(axis, -1), shape)) for v in vectors):
        return None
    (call.gate, gate), (call.residual, residual) = (
        spread(None if v is None else v.movedim(axis, -1), shape, numbers) for v in vectors
    )  # fmt: skip
    return [gate, residual]


def inverse(rows: int) -> int:
    """What the kernels divide by `rows` with; 0 for 1."""
    return ceil(2**32 / rows) if rows > 1 else 0

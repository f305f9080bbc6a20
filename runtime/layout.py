"""How numbers lie that compiled kernels of any target read: addresses, vectors for several rows, orders of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at(tensor: Tensor | None) -> int | None:
    """Its address, or None."""
    return None if tensor is None else tensor.data_ptr()


def can_spread(vectors: Tensor | None, shape: Sequence[int]) -> bool:
    """Is this one vector for all rows of (batch, ..., channels), one for each of the batch, or one for each row?"""
    if vectors is None or vectors.numel() == shape[-1] == vectors.shape[-1]:
        return True
    inner = vectors.shape[1:-1]
    same = vectors.dim() == len(shape) and vectors.shape[0] == shape[0] and vectors.shape[-1] == shape[-1]
    return same and (inner.numel() == 1 or list(inner) == list(shape[1:-1]))


def in_turns(rows: int, columns: int, active: int) -> Tensor:
    """The order of a weight's rows in which panels of its two halves take turns, those of the active one behind the others'."""
    halves = torch.arange(rows).unflatten(0, (2, -1, columns))
    return halves[[1 - active, active]].transpose(0, 1).flatten()


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Rows and columns of a convolution's output."""
    return [
        (length + 2 * border - apart * (taps - 1) - 1) // step + 1
        for length, taps, step, border, apart in zip(size, kernel, stride, padding, dilation, strict=True)
    ]

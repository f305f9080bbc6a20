"""Numbers as whole numbers of 8 bits times a power of two for each slice: exact in bfloat16, so only storage knows of it.

A slice is what has one index along `axis`: a rank of the low-rank branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 127
SMALLEST = 2.0**-100  # of a slice's largest number; below that it is zero


@dataclass(frozen=True)
class Scaled:
    """codes (int8) and exponents (int8, broadcast to them), computed in `dtype`."""

    codes: Tensor
    exponents: Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.exponents.nbytes

    def read(self) -> Tensor:
        """The numbers."""
        return torch.ldexp(self.codes.float(), self.exponents.float()).to(self.dtype)


def rounded(values: Tensor, axis: int) -> Tensor:
    """The nearest numbers that 8 bits and a power of two for each slice hold, as float32."""
    values = values.float()
    exponents = _exponents(values, axis)
    return torch.ldexp(torch.ldexp(values, -exponents).round(), exponents)


def scaled(values: Tensor, axis: int) -> Scaled | None:
    """`values` (as `rounded` left them) in 8 bits, or None where that would change one."""
    exponents = _exponents(values.float(), axis)
    codes = torch.ldexp(values.float(), -exponents)
    if not torch.equal(codes, codes.round()) or (exponents.abs() > MOST).any():
        return None
    return Scaled(codes.to(torch.int8), exponents.to(torch.int8), values.dtype)


def _exponents(values: Tensor, axis: int) -> Tensor:
    """The smallest powers of two by which no number of a slice is beyond MOST."""
    others = [i for i in range(values.dim()) if i != axis]
    largest = values.abs().amax(others, keepdim=True)
    mantissa, exponent = torch.frexp(largest / MOST)
    exponent = exponent - (mantissa == 0.5).int()
    return torch.where(largest < SMALLEST, 0, exponent).float()

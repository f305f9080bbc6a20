"""Number formats: each a frozen row that knows its bits, its groups, and how to encode and decode.

A tensor is encoded along its last axis. A *row* of a weight is an output channel, a row of an activation is a token (or
a pixel), so one `int8` row serves as "per channel" and as "per token".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST_WHOLE = 16  # of a group's scale: times a code it stays within a byte, and with 128 on top it is not negative
SMALLEST_SCALE = 1e-30  # below this a group counts as zero; its inverse would overflow
# What a row's scale is stored as, and those of its groups, where a format has both.
BY_ROW = {"e4m3": (torch.float32, torch.float8_e4m3fn), "whole": (torch.bfloat16, torch.uint8)}


class Encoded(NamedTuple):
    """codes (..., K) or (..., K/2) where two 4-bit codes share a byte, low nibble first; scales (..., K/group)."""

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class NumberFormat:
    """One row of the table of formats.

    bits      of one code, without scales
    kind      "int": two's complement, symmetric, the most negative code unused; "float": sign, exponent, mantissa
    maximum   the largest magnitude of a code
    group     how many neighbours along the last axis share a scale; None: the whole row
    scale     what a scale is stored as: "float32", "bfloat16", or one for each row and on top of it one for each group: float32
              and "e4m3", bfloat16 and a "whole" number of 1..16
    """

    name: str
    bits: Literal[4, 8]
    kind: Literal["int", "float"]
    maximum: float
    group: int | None
    scale: Literal["float32", "bfloat16", "e4m3", "whole"]

    def __post_init__(self) -> None:
        if self.kind == "int" and self.maximum != 2 ** (self.bits - 1) - 1:
            raise ValueError(f"{self.name}: a symmetric {self.bits}-bit integer ends at {2 ** (self.bits - 1) - 1}")
        if self.kind == "float" and self.maximum != {4: E2M1_VALUES[-1], 8: 448.0}[self.bits]:
            raise ValueError(f"{self.name}: {self.maximum} is not the largest value of a {self.bits}-bit float")
        if self.group is not None and (self.group < 2 or self.group & (self.group - 1)):
            raise ValueError(f"{self.name}: a group of {self.group} is not a power of two")
        if self.scale in BY_ROW and self.group is None:
            raise ValueError(f"{self.name}: {self.scale} scales are for groups; a whole row takes float32")

    def refusal(self, width: int) -> str | None:
        """Why a row of `width` numbers can't be stored in this format, or None."""
        if self.group is not None and width % self.group:
            return f"K={width} is not a multiple of {self.group}, the group of {self.name}"
        if self.bits == 4 and width % 2:
            return f"K={width} is odd, and two 4-bit codes share a byte"
        return None

    def encode(self, values: Tensor) -> Encoded:
        """Round `values` (..., K) to this format, half to even, each group scaled by its largest magnitude.

        Raises ValueError when K does not divide into groups.
        """
        if reason := self.refusal(values.shape[-1]):
            raise ValueError(reason)
        groups = self._grouped(values.float())
        scales, stored = self._scales(groups.abs().amax(-1))
        return self._encoded(groups, scales, stored)

    def encode_with(self, values: Tensor, stored: Tensor) -> Encoded:
        """`values` (..., K) with scales that are given, as `encode` returned them."""
        return self._encoded(self._grouped(values.float()), self.read_scales(stored), stored)

    def _encoded(self, groups: Tensor, scales: Tensor, stored: Tensor) -> Encoded:
        return Encoded(self._codes((groups * scales.reciprocal().unsqueeze(-1)).flatten(-2)), stored)

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The numbers (..., K) that `encode` stored, as float32."""
        groups = self._grouped(self.values(codes))
        return (groups * self.read_scales(scales).unsqueeze(-1)).flatten(-2)

    def roundtrip(self, values: Tensor) -> Tensor:
        """`values` as they come back after storage, in their own dtype: what quantization does to them."""
        return self.decode(*self.encode(values)).to(values.dtype)

    def values(self, codes: Tensor) -> Tensor:
        """Codes as plain float32 numbers (..., K), not yet scaled."""
        if self.bits == 8:
            return codes.float()
        nibbles = unpack_nibbles(codes)
        if self.kind == "int":
            return (nibbles.to(torch.int8) << 4 >> 4).float()
        return _e2m1_table(codes.device)[nibbles.long()]

    def nearest(self, scaled: Tensor) -> Tensor:
        """Numbers that were already divided by their scale, at their nearest representable value, as float32."""
        if self.kind == "int":
            return scaled.round().clamp(-self.maximum, self.maximum)
        if self.bits == 8:
            return scaled.clamp(-self.maximum, self.maximum).to(torch.float8_e4m3fn).float()
        return _e2m1_table(scaled.device)[_e2m1_index(scaled)]

    def read_scales(self, stored: Tensor) -> Tensor:
        """Scales as float32 (..., K/group); where there is one for a row too, it is in the first bytes."""
        if self.scale not in BY_ROW:
            return stored.float()
        row, groups = self.split_scales(stored)
        return groups * row

    def split_scales(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """The scale of each row (..., 1), and those of its groups on top of it (..., K/group), where a format has both."""
        first, second = BY_ROW[self.scale]
        parts = stored[..., : first.itemsize], stored[..., first.itemsize :]
        row, groups = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        return row.view(first).float(), groups.view(second).float()

    def _grouped(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, self.group or values.shape[-1]))

    def _scales(self, largest: Tensor) -> tuple[Tensor, Tensor]:
        """(scales to divide by, scales as stored) for the largest magnitude of each group."""
        exact = largest / self.maximum
        scales = torch.where(exact < SMALLEST_SCALE, torch.ones_like(exact), exact)
        if self.scale == "float32":
            return scales, scales
        if self.scale == "bfloat16":
            return scales.bfloat16().float(), scales.bfloat16()
        if self.scale == "whole":
            row = (exact.amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST_WHOLE).bfloat16()
            whole = (exact / row.float()).round().clamp(1, LARGEST_WHOLE)
            return whole * row.float(), torch.cat([row.contiguous().view(torch.uint8), whole.to(torch.uint8)], -1)
        row = exact.amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE) / 448.0
        small = (exact / row).clamp(min=2.0**-9).to(torch.float8_e4m3fn)  # 2**-9: the smallest E4M3 above zero
        stored = torch.cat([row.contiguous().view(torch.uint8), small.view(torch.uint8)], -1)
        return small.float() * row, stored

    def _codes(self, scaled: Tensor) -> Tensor:
        if self.kind == "int":
            codes = self.nearest(scaled).to(torch.int8)
            return codes if self.bits == 8 else pack_nibbles(codes)
        if self.bits == 8:
            return scaled.clamp(-self.maximum, self.maximum).to(torch.float8_e4m3fn)
        return pack_nibbles(_e2m1_index(scaled).to(torch.int8))


def _constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Made where they are: a CUDA graph can't hold a copy from the CPU."""
    return torch.cat([torch.full((1,), float(value), device=device) for value in values])


def _e2m1_table(device: torch.device) -> Tensor:
    return _constants([*E2M1_VALUES, *(-v for v in E2M1_VALUES)], device)


def _e2m1_index(scaled: Tensor) -> Tensor:
    """The code 0..15 of the nearest E2M1 value; a tie goes to the even code, as IEEE rounds."""
    middles = _constants([(a + b) / 2 for a, b in pairwise(E2M1_VALUES)], scaled.device)
    magnitude = scaled.abs().contiguous()
    index = torch.bucketize(magnitude, middles)
    tie = (index % 2 == 1) & (index < 7) & (magnitude == middles[index.clamp(max=6)])
    return index + tie + 8 * scaled.signbit()


def pack_nibbles(codes: Tensor) -> Tensor:
    """int8 codes (..., K) as bytes (..., K/2), low nibble first."""
    pairs = codes.view(torch.uint8).unflatten(-1, (-1, 2))
    return (pairs[..., 0] & 15) | (pairs[..., 1] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Bytes (..., K/2) as numbers 0..15 (..., K)."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


FORMATS: dict[str, NumberFormat] = {
    row.name: row
    for row in (
        NumberFormat("int4-g64", bits=4, kind="int", maximum=7, group=64, scale="bfloat16"),
        NumberFormat("int4-g64-whole", bits=4, kind="int", maximum=7, group=64, scale="whole"),
        NumberFormat("int8", bits=8, kind="int", maximum=127, group=None, scale="float32"),
        NumberFormat("fp8-e4m3", bits=8, kind="float", maximum=448, group=None, scale="float32"),
        NumberFormat("nvfp4", bits=4, kind="float", maximum=6, group=16, scale="e4m3"),
    )
}


def format_named(name: str) -> NumberFormat:
    """The row called `name`; ValueError with the known names otherwise."""
    if name not in FORMATS:
        raise ValueError(f"no number format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name]

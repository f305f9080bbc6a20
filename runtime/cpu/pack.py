"""Weights, scales and low-rank branches as the compiled CPU kernels read them: panels.h, bytes.h, words.h, halves.h."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import NumberFormat, format_named
from aquatint.compiler.powers import Scaled, scaled
from aquatint.runtime.cpu.native import KernelSet
from aquatint.runtime.layout import at

GROUP = 64  # codes that the kernels sum at once

WORD = 4095  # the largest number of 13 bits


def panels(rows: Tensor, columns: int) -> Tensor:
    """(N, r) as (N / columns, r, columns), the last panel filled up with zeros."""
    padded = F.pad(rows, (0, 0, 0, -len(rows) % columns))
    return padded.unflatten(0, (-1, columns)).transpose(1, 2).contiguous()


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight of 4 or 8 bits and its scales in panels, as the product reads them; `codes`: what it was made of."""

    panels: Tensor
    scales: Tensor
    wholes: Tensor | None
    bits: int
    k: int
    groups: int
    codes: Tensor


def packed_weight(
    kernels: KernelSet, codes: Tensor, stored: Tensor, format: str, by_floats: bool, order: Tensor | None = None
) -> PackedWeight:
    """Codes (N, ...) with their `stored` scales, rows in `order`, laid out once for all programs that hold the same codes.

    by_floats  it multiplies plain numbers, so its scales are floats too
    """
    scales = hash(stored.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    key = id(codes), scales, format, by_floats, None if order is None else int(order[0])
    found = kernels.packed.get(key)
    if found is None:
        found = kernels.packed[key] = _packed_weight(kernels, codes, stored, format, by_floats, order)
    return found


def _packed_weight(
    kernels: KernelSet, codes: Tensor, stored: Tensor, format: str, by_floats: bool, order: Tensor | None
) -> PackedWeight:
    weight, own = (codes, stored) if order is None else (codes[order], stored[order])
    library, rows, bits = kernels.library, len(weight), 8 if weight.dtype == torch.int8 else 4
    k = weight[0].numel() * 8 // bits
    laid = torch.empty(library.aq_packed_bytes(kernels.table, bits, rows, k), dtype=torch.uint8)
    library.aq_pack_weight(kernels.table, bits, at(weight.contiguous()), rows, k, at(laid))
    scales, wholes = product_scales(kernels.wide_sums and not by_floats, format_named(format), own, k // GROUP)
    columns, groups = kernels.columns, scales.shape[1]
    in_panels = panels(scales, columns), None if wholes is None else panels(wholes, columns)
    return PackedWeight(laid, *in_panels, bits, k, groups, codes)


def product_scales(wide_sums: bool, format: NumberFormat, stored: Tensor, groups: int) -> tuple[Tensor, Tensor | None]:
    """Scales (N, groups) of a weight. For wide sums as few as there are, and whole numbers (N, groups) for each group on top of
    them, in the first and third byte of four."""
    if wide_sums and format.scale == "whole":
        row, whole = format.split_scales(stored)
        return row.flatten(1), whole.flatten(1).int() * 0x10001
    scales = format.read_scales(stored).flatten(1)
    return (scales if wide_sums else scales.repeat_interleave(groups // scales.shape[1], 1)), None


@dataclass(frozen=True, eq=False)
class PackedBranch:
    """A projection of the low-rank branch in panels of `bits`; scales of its rows, or of its ranks on the way up in 8 bits."""

    panels: Tensor
    scales: Tensor | None
    bits: int


def packed_down(kernels: KernelSet, down: Tensor, format: str | None) -> PackedBranch:
    """The way down (r, K): of codes in `format`, where that is given and there is a kernel for it."""
    found = scaled(down, 0) if kernels.wide_sums and format == "int8" else None
    if found is None:
        return _in_sixteen_bits(kernels, down)
    return PackedBranch(_byte_panels(kernels, found.codes), panels(_powers(found).unsqueeze(1), kernels.columns), 8)


def packed_up(kernels: KernelSet, up: Tensor) -> PackedBranch:
    """The way up (N, r): in bytes where that changes no number and there is a kernel for it."""
    found = scaled(up, 1) if kernels.byte_up else None
    if found is None:
        return _in_sixteen_bits(kernels, up)
    return PackedBranch(_byte_panels(kernels, F.pad(found.codes, (0, -up.shape[1] % 4))), _powers(found), 8)


def _powers(found: Scaled) -> Tensor:
    return torch.ldexp(torch.ones(found.exponents.numel()), found.exponents.flatten().float())


def _byte_panels(kernels: KernelSet, codes: Tensor) -> Tensor:
    laid = torch.empty(kernels.library.aq_packed_bytes(kernels.table, 8, *codes.shape), dtype=torch.uint8)
    kernels.library.aq_pack_weight(kernels.table, 8, at(codes.contiguous()), *codes.shape, at(laid))
    return laid


def _in_sixteen_bits(kernels: KernelSet, rows: Tensor) -> PackedBranch:
    if not kernels.tiles:
        return PackedBranch(*_word_panels(rows, kernels.columns), 16)
    halves = F.pad(rows.bfloat16(), (0, -rows.shape[1] % 32, 0, -len(rows) % kernels.columns)).view(torch.int16)
    return PackedBranch(_paired(halves, kernels.columns), None, 16)


def _paired(rows: Tensor, columns: int) -> Tensor:
    """(N, r) of 16 bits as (N / columns, r / 2, columns, 2)."""
    return rows.unflatten(0, (-1, columns)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def _word_panels(rows: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """(N, r) as words (N / columns, r / 2, columns, 2), and a scale for each row: csrc/cpu/words.h."""
    scales = rows.float().abs().amax(1, keepdim=True) / WORD
    scales = torch.where(scales < 1e-30, 1.0, scales)
    words = F.pad((rows.float() / scales).round().short(), (0, rows.shape[1] % 2, 0, -len(rows) % columns))
    return _paired(words, columns), panels(scales, columns)

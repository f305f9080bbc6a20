"""Convolutions on the GPU: the weight packed tap by tap, and a call as an implicit product."""

from __future__ import annotations

import ctypes
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.cuda.calls import ACTIVATIONS, ConvCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.launch import OUTPUTS, slices_for
from aquatint.runtime.cuda.operands import finished, put_epilogue, ready, there
from aquatint.runtime.cuda.pack import TILE, packed_bytes, packed_groups, packed_nibbles, packed_up
from aquatint.runtime.layout import at, output_size


class ConvKernel:
    """aquatint::conv2d of pixels and weights of 4 or 8 bits; called with codes, scales and h, gate, residual."""

    def __init__(
        self, engine: Engine, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, stride: list[int], padding: list[int], dilation: list[int],
        activation: str | None = None, gate: Any = None, residual: Any = None, table: None = None,
    ) -> None:  # fmt: skip
        self.engine, self.numbers, self.branch = engine, dtype, int(h is not None)
        self.epilogue = there(gate, engine.device, dtype), there(residual, engine.device, dtype)
        self.n, self.formats = len(weight), (formats[0], formats[1])
        self.geometry = list(weight.shape[1:3]), stride, padding, dilation
        self.rank = up.shape[1] if up is not None and self.branch else 0
        whole, place = ceil(self.n / OUTPUTS) * OUTPUTS, engine.device
        self.weight, by_tap = packed_taps(weight.to(place), weight_scales.to(place), formats, whole)
        self.scales = None if by_tap is None else F.pad(by_tap, (0, 0, 0, whole - self.n)).T.contiguous()
        self.bias = None if bias is None else F.pad(bias.to(place, torch.float32), (0, whole - self.n))
        self.up = packed_up(up.to(place, dtype), whole, slices_for(self.rank)) if up is not None and self.branch else None
        pairs = {name: (ctypes.c_int * 2)(*pair) for name, pair in zip(("stride", "padding", "dilation"), self.geometry[1:])}  # noqa: B905
        self.call = ConvCall(
            weight=at(self.weight), bias=at(self.bias), up=at(self.up), n=self.n, rank=self.rank,
            activation=ACTIVATIONS.index(activation), tap_scales=at(self.scales), kernel_height=self.geometry[0][0],
            kernel_width=self.geometry[0][1], **pairs,
        )  # fmt: skip

    def fits(self, codes: Tensor, *values: Tensor) -> bool:
        return True

    def __call__(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> Tensor:
        codes, scales = ready(codes), ready(scales)
        batch, height, width, pitch = codes.shape
        channels = pitch * 8 // format_named(self.formats[0]).bits
        out_height, out_width = output_size(codes.shape[1:3], *self.geometry)
        y = torch.empty(batch, out_height, out_width, self.n, dtype=self.numbers, device=codes.device)
        m = batch * out_height * out_width
        if m == 0:
            return y.permute(0, 3, 1, 2)
        h = ready(varying[0]) if self.branch else None
        others = ops.filled(self.epilogue, varying[self.branch :])
        plan = self.engine.family.conv(m, self.n, channels, prod(self.geometry[0]), self.formats, self.rank)
        call = ConvCall.from_buffer_copy(self.call)
        call.codes, call.x_scales, call.h, call.y, call.m = at(codes), at(scales), at(h), at(y), m
        kept = put_epilogue(call, others, y.shape, self.numbers, axis=-3)
        call.m_tiles, call.n_tiles, call.k_tiles = plan.m_tiles, plan.n_tiles, plan.k_tiles
        call.channels, call.depths = pitch, ceil(pitch / TILE)
        call.height, call.width, call.out_height, call.out_width = height, width, out_height, out_width
        self.engine.launch(plan.launch, [call], self.numbers)
        image = y.permute(0, 3, 1, 2)
        return image if kept is not None else finished(image, *others)


def packed_taps(weight: Tensor, scales: Tensor, formats: tuple[str, str], outputs: int) -> tuple[Tensor, Tensor | None]:
    """A weight (O, kh, kw, C) as a product's, and its scales (O, kh kw).

    Each tap is filled up to whole tiles; where activations have groups too, taps follow each other, and each group's scale is
    in the weight.
    """
    number = format_named(formats[1])
    if format_named(formats[0]).group:
        return packed_groups(weight.flatten(1), scales.flatten(1), outputs), None
    if number.bits == 8:
        return packed_bytes(F.pad(weight, (0, -weight.shape[-1] % TILE)).flatten(1), outputs), scales[..., 0].flatten(1)
    rows, groups = number.split_scales(scales)
    filled = F.pad(weight, (0, -weight.shape[-1] % (TILE // 2)))
    wide = F.pad(groups.to(torch.uint8), (0, -groups.shape[-1] % 2), value=1)
    return packed_nibbles(filled.flatten(1), wide.flatten(1), outputs), rows[..., 0].flatten(1)

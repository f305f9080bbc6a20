"""The compiled CUDA kernels as the target calls them: weights packed on the device once, a call's addresses put in place."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import BY_ROW, NumberFormat, format_named
from aquatint.runtime import ops
from aquatint.runtime.cuda.calls import ACTIVATIONS, ProductCall, QuantizeCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.launch import COLUMNS, OUTPUTS, Planned, slices_for
from aquatint.runtime.cuda.operands import finished, put_epilogue, ready, spread, there
from aquatint.runtime.cuda.pack import packed_blocks, packed_bytes, packed_groups, packed_nibbles, packed_up
from aquatint.runtime.layout import at, can_spread, in_turns

PAIRED = 8  # rows of a weight that lie beside those that multiply them, in a gated unit
CODES = {4: torch.uint8, 8: torch.int8}


class QuantizeKernel:
    """aquatint::quantize to 8 bits a row or 4 a group, its low-rank branch from x; called with x and what else varies."""

    def __init__(
        self, engine: Engine, x: Any, smooth: Tensor | None = None, down: Tensor | None = None, gain: Any = None,
        offset: Any = None, *, format: str, axis: int = -1, eps: float | None = None, activation: str | None = None,
        branch: str | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.axis, self.format = engine, axis, format_named(format)
        self.affine = there(gain, engine.device), there(offset, engine.device)
        self.rank = 0 if down is None else len(down)
        self.smooth = None if smooth is None else smooth.to(engine.device, torch.float32).contiguous()
        self.projection = down, smooth
        self.packed: dict[torch.dtype, Tensor | None] = {}  # the down-projection, by what x is in
        self.call = QuantizeCall(
            smooth=at(self.smooth), rank=self.rank, eps=-1.0 if eps is None else eps,
            activation=ACTIVATIONS.index(activation),
        )  # fmt: skip

    def fits(self, x: Tensor, *varying: Tensor) -> bool:
        rows = x.movedim(self.axis, -1)
        vectors = ops.filled(self.affine, varying)
        k = rows.shape[-1]
        possible = (
            x.dtype in self.engine.family.numbers
            and k % COLUMNS[self.format.name] == 0
            and self.engine.family.fits(k, self.rank)
        )
        return possible and all(can_spread(v, rows.shape) for v in vectors)

    def __call__(self, x: Tensor, *varying: Tensor) -> tuple[Tensor, ...]:
        rows = ready(x.movedim(self.axis, -1))
        *outer, k = rows.shape
        m = rows.numel() // k
        codes = torch.empty(*outer, k * self.format.bits // 8, dtype=CODES[self.format.bits], device=x.device)
        dtype, count = stored_scales(self.format, k)
        scales = torch.empty(*outer, count, dtype=dtype, device=x.device)
        h = torch.empty(*outer, self.rank, device=x.device) if self.rank else None
        found = (codes, scales) if h is None else (codes, scales, h)
        if m == 0:
            return found
        gain, offset = (spread(v, rows.shape, x.dtype, wide=True) for v in ops.filled(self.affine, varying))
        plan = self.engine.family.quantize(m, k, self.rank, self.format.name, self.engine.multiprocessors)
        call = QuantizeCall.from_buffer_copy(self.call)
        call.x, call.down, call.gain, call.offset = at(rows), at(self._down(x.dtype)), gain[0], offset[0]
        call.codes, call.scales, call.h = at(codes), at(scales), at(h)
        call.m, call.k, call.blocks, call.share, call.rooms = m, k, plan.blocks, plan.share, 1
        self.engine.launch(plan.launch, [call], x.dtype)
        return found

    def _down(self, numbers: torch.dtype) -> Tensor | None:
        if numbers not in self.packed:
            down, smooth = self.projection
            scaled = down if down is None or smooth is None else down.float() * smooth.float()
            place = self.engine.device, numbers
            packed = self.engine.family.packed_down
            self.packed[numbers] = None if scaled is None else packed(scaled.to(*place), slices_for(self.rank))
        return self.packed[numbers]


class GemmKernel:
    """aquatint::gemm of activations and weights of 4 or 8 bits; called with codes, scales and h, gate, residual."""

    def __init__(
        self, engine: Engine, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, activation: str | None = None, gate: Any = None, residual: Any = None,
        active: int | None = None, call: type[ProductCall] = ProductCall,
    ) -> None:  # fmt: skip
        self.engine, self.dtype, self.branch = engine, dtype, int(h is not None)
        self.epilogue = there(gate, engine.device, dtype), there(residual, engine.device, dtype)
        self.formats, self.rows = (formats[0], formats[1]), len(weight)
        self.n = self.rows if active is None else self.rows // 2
        if active is not None:
            order = in_turns(self.rows, PAIRED, active).to(weight.device)
            weight, weight_scales, bias, up = (None if t is None else t[order] for t in (weight, weight_scales, bias, up))  # type: ignore[assignment]
        self.rank = up.shape[1] if up is not None and self.branch else 0
        whole = ceil(self.rows / OUTPUTS) * OUTPUTS
        place = engine.device
        self.weight, by_row = packed_weight(weight.to(place), weight_scales.to(place), formats, whole)
        self.scales = None if by_row is None else F.pad(by_row.float(), (0, whole - self.rows))
        self.bias = None if bias is None else F.pad(bias.to(place, torch.float32), (0, whole - self.rows))
        self.up = packed_up(up.to(place, dtype), whole, slices_for(self.rank)) if up is not None and self.branch else None
        self.call = call(
            weight=at(self.weight), w_scales=at(self.scales), bias=at(self.bias), up=at(self.up), n=self.n, rank=self.rank,
            activation=ACTIVATIONS.index(activation), paired=active is not None,
        )  # fmt: skip

    def fits(self, codes: Tensor, *values: Tensor) -> bool:
        return True

    def __call__(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> Tensor:
        codes, scales = ready(codes), ready(scales)
        y = torch.empty(*codes.shape[:-1], self.n, dtype=self.dtype, device=codes.device)
        if y.numel() == 0:
            return y
        call, others = ProductCall.from_buffer_copy(self.call), ops.filled(self.epilogue, varying[self.branch :])
        kept = put_epilogue(call, others, y.shape, self.dtype)
        self.launch(self.engine.family.product, call, y, codes, scales, ready(varying[0]) if self.branch else None)
        return y if kept is not None else finished(y, *others)

    def launch(self, planned: Planned, call: ProductCall, y: Tensor, codes: Tensor, scales: Tensor, h: Tensor | None) -> None:
        """Start a kernel of the kind that `planned` plans for; all tensors are ready, and y (M, N) has some rows."""
        engine, pitch = self.engine, codes.shape[-1]
        m, k = codes.numel() // pitch, pitch * 8 // format_named(self.formats[0]).bits
        plan = planned(m, self.rows, k, self.formats, self.rank, engine.multiprocessors, engine.tokens)
        call.codes, call.x_scales, call.h, call.y, call.m, call.k = at(codes), at(scales), at(h), at(y), m, k
        call.m_tiles, call.n_tiles, call.k_tiles = plan.m_tiles, plan.n_tiles, plan.k_tiles
        fetched = [engine.tensor_map(codes.data_ptr(), m, pitch, plan.box)] if plan.box else []
        engine.launch(plan.launch, [*fetched, call], self.dtype)


def stored_scales(number: NumberFormat, k: int) -> tuple[torch.dtype, int]:
    """What the scales of a row of K numbers are stored as, and how many they are: `NumberFormat.encode`."""
    groups = k // (number.group or k)
    if number.scale in BY_ROW:
        return torch.uint8, BY_ROW[number.scale][0].itemsize + groups
    return getattr(torch, number.scale), groups


def packed_weight(weight: Tensor, scales: Tensor, formats: tuple[str, str], outputs: int) -> tuple[Tensor, Tensor | None]:
    """A weight as the kernels of its formats read it, and the scale of each row where that is one by itself."""
    if formats[1] == "int8":
        return packed_bytes(weight, outputs), scales[:, 0]
    if formats[1] == "nvfp4":
        row, blocks = format_named("nvfp4").split_scales(scales)
        return packed_blocks(weight, blocks.to(torch.float8_e4m3fn).view(torch.uint8), outputs), row[:, 0]
    if format_named(formats[0]).group:
        return packed_groups(weight, scales, outputs), None
    row, groups = format_named(formats[1]).split_scales(scales)
    return packed_nibbles(weight, groups.to(torch.uint8), outputs), row[:, 0]

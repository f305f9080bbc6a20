"""Products of few rows of plain numbers on the GPU, by weights of 4 or 8 bits as they are stored."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime.cuda.calls import ACTIVATIONS, GemvCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.operands import ready
from aquatint.runtime.cuda.sm80 import gemv_plan
from aquatint.runtime.layout import at
from aquatint.runtime.ops import meanings

MOST_ROWS = 32  # for more, widening the weight once and PyTorch's product are less work


class GemvKernel:
    """aquatint::gemm of few rows of plain numbers by weights of 4 or 8 bits; called with them."""

    def __init__(
        self, engine: Engine, x: Any, scales: None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: None = None, up: None = None, *,
        formats: tuple[None, str], dtype: torch.dtype, activation: str | None = None, **options: None,
    ) -> None:  # fmt: skip
        number, place = format_named(formats[1]), engine.device
        self.engine, self.number, self.n, self.activation = engine, number, len(weight), activation
        self.numbers = dtype
        self.weight, rows, groups = weight.to(place).contiguous(), None, None
        self.stored_scales = weight_scales.to(place)
        if number.scale == "whole":
            rows, groups = number.split_scales(weight_scales)
        elif number.group:
            groups = weight_scales
        else:
            rows = weight_scales
        self.groups = None if groups is None else groups.to(place, torch.bfloat16).contiguous()
        self.rows = None if rows is None else rows.to(place, torch.float32).contiguous()
        self.bias = None if bias is None else bias.to(place, torch.float32).contiguous()
        self.call = GemvCall(
            weight=at(self.weight), groups=at(self.groups), rows=at(self.rows), bias=at(self.bias), n=self.n,
            activation=ACTIVATIONS.index(activation),
        )  # fmt: skip

    def fits(self, x: Tensor) -> bool:
        return x.dtype == self.numbers

    def __call__(self, x: Tensor) -> Tensor:
        rows = ready(x)
        *outer, k = rows.shape
        m = rows.numel() // k
        if m > MOST_ROWS:
            return self.widened(x)
        y = torch.empty(*outer, self.n, dtype=self.numbers, device=x.device)
        if m == 0:
            return y
        call = GemvCall.from_buffer_copy(self.call)
        call.x, call.y, call.m, call.k = at(rows), at(y), m, k
        self.engine.launch(gemv_plan(m, self.n, self.number.bits), [call], self.numbers)
        return y

    def widened(self, x: Tensor) -> Tensor:
        """By PyTorch's own product, the weight widened for this call."""
        weight = self.number.decode(self.weight, self.stored_scales).to(self.numbers)
        y = F.linear(x, weight, None if self.bias is None else self.bias.to(self.numbers))
        return meanings.ACTIVATIONS[self.activation](y) if self.activation else y

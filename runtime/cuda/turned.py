"""Queries and keys on the GPU: a product whose heads are normed and turned by their positions before they leave it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime import ops
from aquatint.runtime.cuda.calls import TurnedCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.linear import GemmKernel
from aquatint.runtime.cuda.operands import ready, there
from aquatint.runtime.layout import at

WIDTHS = (16, 32, 64, 128)  # of heads: a tile of outputs has whole ones
PAIRS = 8  # that lie together: their first numbers, and behind them the others


class AnglesKernel:
    """aquatint::angles, once for all layers: PyTorch's own kernels; called with cosines and sines."""

    def __init__(self, engine: Engine, cos: Any, sin: Any, **options: Any) -> None:
        self.angles, self.options = (there(cos, engine.device), there(sin, engine.device)), options

    def fits(self, *varying: Tensor) -> bool:
        return True

    def __call__(self, *varying: Tensor) -> Tensor:
        return ops.angles(*ops.filled(self.angles, varying), **self.options)


class GemmRotaryKernel:
    """aquatint::gemm_rotary; called with codes, scales and what else varies: angles, h."""

    def __init__(
        self, engine: Engine, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, angles: Any,
        bias: Tensor | None = None, h: Any = None, up: Tensor | None = None, norm: Tensor | None = None, *,
        formats: tuple[str, str], dtype: torch.dtype, width: int, eps: float | None = None, halves: bool = False,
    ) -> None:  # fmt: skip
        heads = in_pairs(len(weight), width, halves)
        stored = (None if t is None else t[heads.to(t.device)] for t in (weight, weight_scales, bias, up))
        weight, weight_scales, bias, up = stored  # type: ignore[assignment]
        self.gemm = GemmKernel(
            engine, codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype, call=TurnedCall
        )  # fmt: skip
        self.width, self.angles = width, there(angles, engine.device)
        own = None if norm is None else norm[heads[:width].to(norm.device)]
        self.norm = None if own is None else own.to(engine.device, torch.float32).contiguous()
        self.call = TurnedCall.from_buffer_copy(self.gemm.call)
        self.call.norm, self.call.eps = at(self.norm), -1.0 if eps is None else eps
        self.call.width, self.call.halves = width, halves

    def fits(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> bool:
        (angles,) = ops.filled([self.angles], varying)
        return codes.dim() == 3 and angles.numel() == codes.shape[1] * self.width * 2

    def __call__(self, codes: Tensor, scales: Tensor, *varying: Tensor) -> Tensor:
        codes, scales = ready(codes), ready(scales)
        gemm, width = self.gemm, self.width
        y = torch.empty(*codes.shape[:-1], gemm.n // width, width, dtype=gemm.dtype, device=codes.device)
        if y.numel() == 0:
            return y
        angles = ready(ops.filled([self.angles], varying)[0])
        call = TurnedCall.from_buffer_copy(self.call)
        call.angles, call.tokens = at(angles), codes.shape[1]
        assert gemm.engine.family.turned is not None
        gemm.launch(gemm.engine.family.turned, call, y, codes, scales, ready(varying[-1]) if gemm.branch else None)
        return y


def in_pairs(rows: int, width: int, halves: bool) -> Tensor:
    """The order of a weight's rows in which eight numbers of a head lie before the eight that they turn with."""
    heads = torch.arange(rows).unflatten(0, (-1, width))
    pairs = heads.unflatten(1, (2, -1)).transpose(1, 2) if halves else heads.unflatten(1, (-1, 2))
    return pairs.unflatten(1, (-1, PAIRS)).transpose(2, 3).flatten()

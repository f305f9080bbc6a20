"""Rotary positions on the GPU, with the norm of queries and keys before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime import ops
from aquatint.runtime.cuda.calls import RotaryCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.operands import ready
from aquatint.runtime.cuda.sm80 import rotary_launch
from aquatint.runtime.layout import at

WIDEST = 256  # numbers of a row: a warp's


class RotaryKernel:
    """aquatint::rotary; called with x, cosines and sines."""

    def __init__(
        self, engine: Engine, x: Any, cos: Any, sin: Any, weight: Tensor | None = None, *,
        dtype: torch.dtype | None = None, eps: float | None = None, halves: bool = False,
    ) -> None:  # fmt: skip
        self.engine, self.dtype, self.halves, self.eps = engine, dtype, halves, -1.0 if eps is None else eps
        self.weight = None if weight is None else weight.to(engine.device, torch.float32).contiguous()
        self.angles = [None if v is ops.Slot else v.to(engine.device) for v in (cos, sin)]

    def fits(self, x: Tensor, *angles: Tensor) -> bool:
        width = x.shape[-1]
        possible = (
            x.dim() == 4
            and width % (16 if self.halves else 8) == 0
            and width <= WIDEST
            and x.dtype in self.engine.family.numbers
        )
        cos, sin = self._both(angles)
        return possible and self.dtype in (None, x.dtype) and cos.shape == sin.shape and _turns(x, cos) is not None

    def __call__(self, x: Tensor, *angles: Tensor) -> Tensor:
        x = ready(x)
        cos, sin = (ready(a.to(torch.float32)) for a in self._both(angles))
        y, width = torch.empty_like(x), x.shape[-1]
        rows = x.numel() // width
        if rows == 0:
            return y
        tokens, heads = _turns(x, cos)  # type: ignore[misc]
        launch, group = rotary_launch(rows, width)
        by_pairs = cos.shape[-1] < width
        call = RotaryCall(
            at(x), at(cos), at(sin), at(self.weight), at(y), rows, tokens, heads, width, group, by_pairs, self.halves, self.eps
        )
        self.engine.launch(launch, [call], x.dtype)
        return y

    def _both(self, varying: tuple[Tensor, ...]) -> list[Tensor]:
        given = iter(varying)
        return [next(given) if angle is None else angle for angle in self.angles]


def _turns(x: Tensor, angle: Tensor) -> tuple[int, int] | None:
    """How many tokens have angles of their own, and how many rows behind each other are one's; None: they lie otherwise."""
    *outer, width = (1,) * (4 - angle.dim()) + tuple(angle.shape)
    _, first, second, numbers = x.shape
    if width not in (numbers, numbers // 2):
        return None
    return (first, second) if outer == [1, first, 1] else (second, 1) if outer == [1, 1, second] else None

"""Rotary positions on the GPU, with the norm of queries and keys before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime import ops
from aquatint.runtime.binding import at
from aquatint.runtime.cuda.calls import RotaryCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.operands import ready
from aquatint.runtime.cuda.sm80 import rotary_launch

WIDEST = 256  # numbers of a row: a warp's


class RotaryKernel:
    """aquatint::rotary; called with x, cosines and sines."""

    def __init__(
        self, engine: Engine, x: Any, cos: Any, sin: Any, weight: Tensor | None = None, *,
        dtype: torch.dtype, eps: float | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.numbers, self.eps = engine, dtype, -1.0 if eps is None else eps
        self.weight = None if weight is None else weight.to(engine.device, torch.float32).contiguous()
        self.angles = [None if v is ops.Slot else v.to(engine.device) for v in (cos, sin)]

    def fits(self, x: Tensor, *angles: Tensor) -> bool:
        _, tokens, _, width = x.shape if x.dim() == 4 else (0, 0, 0, 1)
        shape = (1, tokens, 1, width)
        return (
            x.dtype == self.numbers and width % 8 == 0 and width <= WIDEST and all(a.shape == shape for a in self._both(angles))
        )

    def __call__(self, x: Tensor, *angles: Tensor) -> Tensor:
        x = ready(x)
        cos, sin = (ready(a.to(torch.float32)) for a in self._both(angles))
        y = torch.empty_like(x)
        batch, tokens, heads, width = x.shape
        rows = batch * tokens * heads
        if rows == 0:
            return y
        launch, group = rotary_launch(rows, width)
        call = RotaryCall(at(x), at(cos), at(sin), at(self.weight), at(y), rows, tokens, heads, width, group, self.eps)
        self.engine.launch(launch, [call], self.numbers)
        return y

    def _both(self, varying: tuple[Tensor, ...]) -> list[Tensor]:
        given = iter(varying)
        return [next(given) if angle is None else angle for angle in self.angles]

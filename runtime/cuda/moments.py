"""A group norm's gain and offset on the GPU, of images in either order of memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime.cuda.calls import MomentsCall
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.operands import ready
from aquatint.runtime.cuda.sm80 import moments_plan
from aquatint.runtime.layout import at


class GroupAffineKernel:
    """aquatint::group_affine; called with x (B, C, ..)."""

    def __init__(
        self, engine: Engine, x: Any, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
    ) -> None:
        self.engine, self.groups, self.eps = engine, groups, eps
        self.weight, self.bias = (
            None if v is None else v.to(engine.device, torch.float32).contiguous() for v in (weight, bias)
        )

    def fits(self, x: Tensor) -> bool:
        return x.dtype in self.engine.family.numbers and x.dim() > 2 and x.numel() > 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, *sizes = x.shape
        last = x.movedim(1, -1).is_contiguous()
        x = x if last else ready(x)
        pixels = x.numel() // (batch * channels)
        plan = moments_plan(batch, channels, self.groups, pixels, last, self.engine.multiprocessors)
        gain, offset = (torch.empty(batch, *[1] * len(sizes), channels, device=x.device) for _ in range(2))
        parts = torch.empty(batch * self.groups * plan.splits, 2, device=x.device)
        call = MomentsCall(
            at(x), at(self.weight), at(self.bias), at(parts), at(gain), at(offset), batch, channels, self.groups, pixels,
            plan.splits, plan.share, plan.abreast, *((1, channels) if last else (pixels, 1)), self.eps,
        )  # fmt: skip
        self.engine.launch(plan.moments, [call], x.dtype)
        self.engine.launch(plan.affine, [call], x.dtype)
        return gain, offset

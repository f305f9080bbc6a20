"""What capture takes for the same result, and what not."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import CaptureError
from tests.zoo import build


class Drawing(nn.Module):
    """Adds a number that is drawn anew in each call, of the size of a rounding of its dtype or more."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner, self.size, self.draws = nn.Linear(32, 32), size, random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.size * (0.5 + self.draws.random())


@pytest.mark.parametrize("size", [0.05, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_that_draws_is_refused_in_any_dtype(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 32, dtype=dtype)
    with pytest.raises(CaptureError, match="draws random numbers"):
        capture(Drawing(size).to(dtype), Example((x,), {}))


@pytest.mark.parametrize("name", ["unet2d", "sd"])
def test_a_unet_in_bfloat16_goes_through(name: str) -> None:
    torch.manual_seed(0)
    model, (args, kwargs) = build(name)
    args = tuple(a.bfloat16() if a.is_floating_point() else a for a in args)
    program = capture(model.bfloat16(), Example(args, kwargs))
    assert {w.dtype for w in program.weights.values()} == {torch.bfloat16}

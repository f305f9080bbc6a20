"""What capture takes for the same result, and what not."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

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


@pytest.mark.parametrize("name", ["flux", "sana"])
def test_a_transformer_in_float16_goes_through(name: str) -> None:
    """They are clipped in float16 alone."""
    torch.manual_seed(0)
    model, (args, kwargs) = build(name)
    args, kwargs = (
        tree_map(lambda v: v.half() if isinstance(v, Tensor) and v.is_floating_point() else v, given)
        for given in (args, kwargs)
    )
    program = capture(model.half(), Example(args, kwargs))
    assert any(n.target is torch.ops.aten.clamp.default for n in program.graph.nodes)


class SecondNames(nn.Module):
    """Operators by the names that few use."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.multiply(torch.clip(x, -1, 1), torch.negative(torch.absolute(x)))
        y = torch.concatenate([torch.subtract(y, x), torch.divide(y, 2.0)], dim=-1)
        return torch.where(torch.greater(y, 0.0), torch.moveaxis(y, 1, 1), torch.fix(y))


def test_second_names_are_the_first_ones() -> None:
    program = capture(SecondNames(), Example((torch.randn(2, 4, 8),), {}))
    packets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert {"aten.clamp.default", "aten.mul.Tensor", "aten.cat.default", "aten.gt.Scalar", "aten.trunc.default"} <= packets

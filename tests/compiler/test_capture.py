"""What capture takes for the same result, and what not."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import CaptureError
from aquatint.compiler.text import parse, text
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


class Apart(nn.Module):
    """Parts that torch.export sets apart, and a parameter whose name is no word."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.layers, self.autocast = nn.ModuleDict({"2-1": nn.Linear(8, 8)}), autocast

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            y = self.layers["2-1"](x).double()
            with torch.no_grad():
                z = y.sin()
        return (y + z).float(), z


def test_parts_in_a_mode_of_their_own() -> None:
    program = capture(Apart(autocast=False), Example((torch.randn(2, 8),)))
    assert [site.name for site in program.sites] == ["layers.2-1"]
    assert text(parse(text(program), program)) == text(program)
    with pytest.raises(CaptureError, match="turns autocast on"):
        capture(Apart(autocast=True), Example((torch.randn(2, 8),)))


class Seldom(nn.Module):
    """Operators that few models use."""

    def forward(self, x: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest-exact")
        rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
        both = (rows > 1) & (columns > 2) | (rows == columns)
        normed = torch.nn.functional.normalize(x, dim=1) + both.broadcast_to(x.shape).to(x.dtype)
        apart = torch.cdist(normed.flatten(2), x.flatten(2)).mean((1, 2))
        pooled = torch.nn.functional.max_pool3d(large.unsqueeze(1), (1, 2, 2)).squeeze(1)
        return normed + pooled * apart[:, None, None, None]


def test_operators_that_few_models_use() -> None:
    model = Seldom()
    program = capture(model, Example((torch.randn(2, 4, 6, 8),)))
    x = torch.randn(3, 4, 10, 4)
    assert torch.equal(program(x)[0], model(x))


class FixesItsBatch(nn.Module):
    """As Chroma does, with a list of as many numbers as there are samples."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        guidance = torch.tensor([0.5] * time.shape[0])
        return x * guidance[:, None] + time[:, None]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_is_the_callers(batch: int) -> None:
    x, time = torch.randn(batch, 4), torch.rand(batch)
    program = capture(FixesItsBatch(), Example((x, time)))
    assert [spec.shape[0] for spec in program.interface.inputs] == [batch, batch]
    assert torch.equal(program(x, time)[0], FixesItsBatch()(x, time))


def test_a_fixed_batch_and_a_number() -> None:
    class Adds(nn.Module):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return x + torch.tensor([0.5] * x.shape[0])[:, None] * time.reshape(-1, 1)

    program = capture(Adds(), Example((torch.randn(2, 4), torch.tensor(0.5))))
    assert [spec.shape[0] for spec in program.interface.inputs] == [2, 2]

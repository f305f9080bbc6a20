"""Rotary positions found in a graph: what is made one operator gives the same, and what is not quite that is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.execution import Execution
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.rotary import rotated
from aquatint.runtime.ops import name_of
from tests.programs import program_of

HEADS = InputSpec("x", "float32", (2, 5, 3, 16))
LINES = """
%n = aten::rms_norm.default(%x, [16], @weight, 1e-06)
%r = aten::reshape.default(%n, [2, 5, 3, 8, 2])
%u = aten::unbind.int(%r, -1)
%a = python::getitem(%u, 0)
%b = python::getitem(%u, 1)
%m = aten::neg.default(%b)
%s = aten::stack.default([%m, %a], -1)
%f = aten::flatten.using_ints(%s, 3)
%p = aten::to.dtype(%n, dtype('float32'))
%c = aten::mul.Tensor(%p, @cos)
%q = aten::to.dtype(%f, dtype('float32'))
%d = aten::mul.Tensor(%q, @sin)
%e = aten::add.Tensor(%c, %d)
%y = aten::to.dtype(%e, dtype('float32'))
return [%y]
"""


def names(lines: str) -> tuple[set[str | None], float]:
    """The operators of the graph made ready, and how far its result is from the graph's own."""
    angles = torch.rand(1, 5, 1, 16)
    weights = {"weight": torch.rand(16), "cos": angles.cos(), "sin": angles.sin()}
    program = program_of(lines.strip().splitlines(), weights, HEADS)
    x = torch.randn(2, 5, 3, 16)
    graph = rotated(program.graph)
    own, exact = Execution(graph, program.weights)(x)[0], program(x)[0]
    return {name_of(n.target) for n in graph.nodes if n.op == "call_function"}, float((own - exact).abs().max())


def test_a_turn_and_its_norm_are_one_operator() -> None:
    assert names(LINES) == ({"aquatint::rotary"}, 0.0)


def test_a_norm_that_others_read_stays() -> None:
    found, apart = names(LINES.replace("return [%y]", "%z = aten::add.Tensor(%y, %n)\nreturn [%z]"))
    assert found == {"aquatint::rotary", "aten::rms_norm.default", "aten::add.Tensor"}
    assert apart == 0


def test_what_is_not_quite_a_turn_is_left() -> None:
    for old, new in (
        ("stack.default([%m, %a]", "stack.default([%a, %m]"),
        ("getitem(%u, 0)", "getitem(%u, 1)"),
        ("to.dtype(%n, dtype('float32'))", "to.dtype(%n, dtype('bfloat16'))"),
    ):
        assert old in LINES
        assert "aquatint::rotary" not in names(LINES.replace(old, new))[0], new


class Scattered(nn.Module):
    """Pairs that are written to where they came from, as in Wan."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        y = torch.empty_like(x)
        y[..., 0::2] = first * cos[..., 0::2] - second * sin[..., 1::2]
        y[..., 1::2] = first * sin[..., 1::2] + second * cos[..., 0::2]
        return y.type_as(x)


class Complex(nn.Module):
    """Pairs that are complex numbers, behind a norm, as in Qwen-Image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16, 1e-6)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.norm(x.flatten(2).unflatten(-1, (3, 16)))
        turns = torch.complex(cos[0, :, :, ::2].float(), sin[0, :, :, ::2].float())
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(3).type_as(x)


class Halves(nn.Module):
    """Pairs that are half a row apart, as in CogView4; or, `chunked`, as language models write it."""

    def __init__(self, chunked: bool) -> None:
        super().__init__()
        self.chunked = chunked

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, -1) if self.chunked else x.reshape(*x.shape[:-1], 2, -1).unbind(-2)
        return (x.float() * cos + torch.cat([-second, first], -1).float() * sin).to(x.dtype)


@pytest.mark.parametrize(
    "model", [Scattered(), Complex(), Halves(chunked=False), Halves(chunked=True)], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_forms_of_turns(model: nn.Module, dtype: torch.dtype) -> None:
    angles = torch.rand(1, 5, 1, 8).repeat_interleave(2, -1)
    call = torch.randn(2, 5, 3, 16).to(dtype), angles.cos(), angles.sin()
    program = capture(model.to(dtype), Example(call))
    graph = rotated(program.graph)
    found = {name_of(n.target) for n in graph.nodes if n.op == "call_function"}
    assert "aquatint::rotary" in found
    assert not found & {"aten::slice_scatter.default", "aten::view_as_complex.default", "aten::rms_norm.default"}
    own, exact = Execution(graph, program.weights)(*call)[0], program(*call)[0]
    assert torch.equal(own, exact) or (dtype == torch.float32 and (own - exact).abs().max() < 1e-6)

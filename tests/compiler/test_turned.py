"""Rotary positions that become part of products: which, and that the graph means the same."""

from __future__ import annotations

import pytest
import torch

from aquatint.compiler.execution import Execution
from aquatint.compiler.formats import format_named
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.turned import turned
from aquatint.runtime.ops import name_of
from tests.programs import program_of

FORMATS = ("int8", "int4-g64-whole")


def product(x: str) -> str:
    """Lines that make of %x the product %y_x."""
    return f"""
%q_{x} = aquatint::quantize(%{x}, format='int8')
%a_{x} = python::getitem(%q_{x}, 0)
%b_{x} = python::getitem(%q_{x}, 1)
%y_{x} = aquatint::gemm(%a_{x}, %b_{x}, @codes, @steps, formats=['int8', 'int4-g64-whole'], dtype=dtype('float32'))"""


ONE = f"""{product("x")}
%h = aten::unflatten.int(%y_x, -1, [-1, 32])
%z = aquatint::rotary(%h, @cos, @sin, @norm, eps=1e-06, dtype=dtype('float32'))
return [%z]
"""
TWO = f"""
%w = aten::slice.Tensor(%x, 1, 0, 3){product("w")}
%g = aten::unflatten.int(%y_w, -1, [2, -1])
%m = aten::rms_norm.default(%g, [32], @norm, 1e-06){product("x")}
%h = aten::unflatten.int(%y_x, -1, [2, -1])
%n = aten::rms_norm.default(%h, [32], @norm, 1e-06)
%t = aten::cat.default([%m, %n], 1)
%z = aquatint::rotary(%t, @cos, @sin, dtype=dtype('float32'), halves=True)
return [%z]
"""


def names(
    lines: str, answer: bool = True, shape: tuple[int, ...] = (1, -1, 1, 32)
) -> tuple[list[str | None], set[tuple[int, tuple[str, str]]], float]:
    """The operators of the graph made ready, what the target was asked, and how far its result is from the graph's own."""
    torch.manual_seed(0)
    codes, steps = format_named(FORMATS[1]).encode(torch.randn(64, 64))
    angles = torch.rand(*(size if size > 0 else 8 if "%w" in lines else 5 for size in shape))
    weights = {"codes": codes, "steps": steps, "norm": torch.rand(32), "cos": angles.cos(), "sin": angles.sin()}
    program = program_of(lines.strip().splitlines(), weights, InputSpec("x", "float32", (2, 5, 64)))
    asked: list[tuple[int, tuple[str, str]]] = []
    graph = turned(program.graph, program.weights, lambda *question: (asked.append(question), answer)[1])
    x = torch.randn(2, 5, 64)
    own, exact = Execution(graph, program.weights)(x)[0], program(x)[0]
    found = [name_of(n.target) for n in graph.nodes if n.op == "call_function"]
    assert (graph is program.graph) == ("aquatint::gemm_rotary" not in found), "the program stays as it is"
    return [n for n in found if n != "python::getitem"], set(asked), float((own - exact).abs().max())


def test_a_product_turns_its_own_heads() -> None:
    assert names(ONE) == (["aquatint::quantize", "aquatint::angles", "aquatint::gemm_rotary"], {(32, FORMATS)}, 0.0)


def test_two_that_are_joined_turn_their_own() -> None:
    found, asked, apart = names(TWO)
    assert found.count("aquatint::gemm_rotary") == 2
    assert not {"aquatint::gemm", "aquatint::rotary", "aten::rms_norm.default"} & set(found)
    assert asked == {(32, FORMATS)}
    assert apart == 0


@pytest.mark.parametrize("lines", [ONE, TWO])
@pytest.mark.parametrize("shape", [(-1, 1, 32), (2, -1, 1, 32), (1, -1, 1, 16), (2, -1, 1, 16)])
def test_angles_may_be_by_pairs_and_of_a_sample(lines: str, shape: tuple[int, ...]) -> None:
    found, _, apart = names(lines, shape=shape)
    assert "aquatint::rotary" not in found
    assert apart == 0


@pytest.mark.parametrize("lines", [ONE, TWO])
def test_a_target_that_refuses_gets_the_graph_as_it_is(lines: str) -> None:
    found, asked, _ = names(lines, answer=False)
    assert asked
    assert "aquatint::gemm_rotary" not in found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return [%z]", "return [%z, %y_x]"),
        ("return [%z]", "return [%z, %h]"),
        ("%h = aten::unflatten.int(%y_x, -1", "%r = aten::relu.default(%y_x)\n%h = aten::unflatten.int(%r, -1"),
        ("dtype=dtype('float32'))\n%h", "dtype=dtype('float32'), activation='gelu')\n%h"),
        ("eps=1e-06, dtype=dtype('float32')", "eps=1e-06, dtype=dtype('bfloat16')"),
    ],
)
def test_what_something_else_reads_or_follows_stays(old: str, new: str) -> None:
    assert old in ONE
    found, _, apart = names(ONE.replace(old, new))
    assert "aquatint::rotary" in found
    assert "aquatint::gemm_rotary" not in found
    assert apart == 0

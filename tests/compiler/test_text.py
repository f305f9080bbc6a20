from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from aquatint.compiler.errors import VerifyError
from aquatint.compiler.program import Program
from aquatint.compiler.text import parse, text
from aquatint.compiler.verify import same_graph, shapes, verify
from aquatint.passes.recipes import recipe_named
from tests.programs import attention_like, context_for, random_programs, token_inputs

GOLDEN = Path(__file__).parent.parent / "golden"


@settings(max_examples=40, deadline=None)
@given(random_programs())
def test_round_trip(program: Program) -> None:
    again = parse(text(program), program)
    assert same_graph(program, again)
    assert text(again) == text(program)


def test_round_trip_of_odd_arguments() -> None:
    source = "\n".join([
        "program small", "input %x: float32[s0, s1, 64]  # x",
        "%a = aten::to.dtype(%x, dtype('float16'))",
        "%b = aten::slice.Tensor(%a, 0, 0, 9223372036854775807)",
        "%c = aten::einsum.default('bij->bji', [%b])",
        "%d = python::getitem(%c, slice([None, 3, None]))",
        "%e = aten::clamp.default(%d, float('-inf'), 1e-06)",
        "%f = aten::zeros.default([2], device=device('cpu'))",
        "return [%e, [%f], {}]".replace(", {}", ""),
    ])  # fmt: skip
    like = attention_like()
    program = parse(source, like)
    assert same_graph(parse(text(program), like), program)
    assert "float('-inf')" in text(program)


@pytest.mark.parametrize("recipe", ["svdq-w4a8-r32", "w4a16"])
def test_golden(recipe: str) -> None:
    """The program after each preset, as text; regenerate with `python -m tests.compiler.test_text`."""
    assert compiled_text(recipe) == (GOLDEN / f"attention_like.{recipe}.txt").read_text()


def compiled_text(recipe: str) -> str:
    from aquatint.compression import compress

    program = attention_like()
    calibration = context_for(program, token_inputs(), recipe_named(recipe).rules[0].treatment).calibration  # type: ignore[arg-type]
    rules = recipe_named(recipe).rules[:1]  # its roles would keep everything: the program is but two layers deep
    chosen = recipe_named(recipe)
    return text(compress(program, type(chosen)(chosen.name, chosen.passes, rules), calibration)[0])


def test_a_line_that_cannot_be_read_is_named() -> None:
    program = attention_like()
    broken = text(program).replace("aten::gelu.default", "os::system")
    with pytest.raises(ValueError, match=r"line \d+ can't be read: .*os::system"):
        parse(broken, program)


def test_verify_finds_what_is_wrong() -> None:
    program = attention_like()
    node = next(n for n in program.graph.nodes if n.name == "g")
    node.target = torch.ops.aten.bernoulli.default
    with pytest.raises(VerifyError, match="bernoulli"):
        verify(program)
    program = attention_like()
    del program.weights["out.bias"]
    with pytest.raises(VerifyError, match=r"out\.bias"):
        verify(program)


def test_shapes_compute_nothing() -> None:
    found = shapes(attention_like(), [torch.zeros(3, 5, 64)])
    assert found["q"] == (3, 5, 128)
    assert found["y"] == (3, 5, 64)


if __name__ == "__main__":
    for name in ("svdq-w4a8-r32", "w4a16"):
        (GOLDEN / f"attention_like.{name}.txt").write_text(compiled_text(name))

"""Products joined with the quantizes behind them: which, and that the program means the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import aquatint
from aquatint.compiler.execution import Execution
from aquatint.compiler.join import joined
from aquatint.compiler.program import Program
from aquatint.runtime.ops import name_of


class Perceptron(nn.Module):
    """A GELU between two linears, or a norm, or the sum of both of its sides."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.first, self.up, self.down, self.last = (
            nn.Linear(64, 64),
            nn.Linear(64, 128),
            nn.Linear(128, 64),
            nn.Linear(64, 64),
        )
        self.between = between
        self.norm = nn.LayerNorm(128, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.first(x)))
        inner = {"gelu": nn.functional.gelu, "norm": self.norm, "read twice": nn.functional.gelu}[self.between](y)
        z = torch.relu(self.down(inner))
        return self.last(z) + (inner.sum() if self.between == "read twice" else 0)


def compressed(between: str) -> Program:
    torch.manual_seed(0)
    model = Perceptron(between)
    return aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(torch.randn(2, 50, 64)), target="reference").program


def names(graph) -> list[str | None]:
    return [name_of(n.target) for n in graph.nodes if n.op == "call_function"]


def test_a_pair_becomes_one_and_means_the_same() -> None:
    program, asked = compressed("gelu"), []
    graph = joined(program.graph, program.weights, lambda *question: not asked.append(question))
    assert asked
    assert set(asked) == {(128, "int8")}
    assert names(graph).count("aquatint::gemm_quantize") == 1
    assert len(names(graph)) == len(names(program.graph)) - 1
    assert "aquatint::gemm_quantize" not in names(program.graph), "the program stays as it is"
    x = torch.randn(2, 50, 64)
    assert torch.equal(Execution(graph, program.weights)(x)[0], program(x)[0])


def test_a_target_that_refuses_gets_the_graph_as_it_is() -> None:
    program = compressed("gelu")
    assert joined(program.graph, program.weights, lambda *question: False) is program.graph


@pytest.mark.parametrize("between", ["norm", "read twice"])
def test_what_stands_between_keeps_them_apart(between: str) -> None:
    program = compressed(between)
    assert "aquatint::quantize" in names(program.graph)
    assert joined(program.graph, program.weights, lambda *question: True) is program.graph

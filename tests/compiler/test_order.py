"""What follows from the time alone is done before the first block, the same operators beside each other."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.execution import Execution
from aquatint.compiler.order import early_first, small_ones
from aquatint.compiler.replay import replay_of
from aquatint.runtime import ops


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation, self.product = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale = self.modulation(torch.nn.functional.silu(time))
        return x + self.product(x * (1 + scale[:, None]))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, time)
        return x


def prepared() -> tuple[Execution, list[Tensor]]:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 8), torch.randn(2, 8)]
    program = capture(Blocks().eval(), Example(tuple(inputs), {}))
    return Execution(program.graph, program.weights), inputs


def names(nodes: list[fx.Node]) -> list[str]:
    return [(ops.name_of(n.target) or "").split("::")[1].split(".")[0] for n in nodes]


def test_modulations_of_all_blocks_come_first() -> None:
    execution, inputs = prepared()
    order = early_first(execution.nodes, small_ones(execution.inputs, inputs))
    assert sorted(order, key=str) == sorted(execution.nodes, key=str)
    assert names(order)[:6] == ["silu"] * 3 + ["linear"] * 3
    of_x = next(i for i, n in enumerate(order) if execution.inputs[0] in n.all_input_nodes)
    assert "silu" in names(execution.nodes)[of_x:]
    assert "silu" not in names(order[of_x:])


def test_each_comes_behind_its_inputs_and_no_number_changes() -> None:
    execution, inputs = prepared()
    order = early_first(execution.nodes, small_ones(execution.inputs, inputs))
    seen: set[fx.Node] = set()
    for node in order:
        assert all(n.op != "call_function" or n in seen for n in node.all_input_nodes)
        seen.add(node)
    assert torch.equal(replay_of(execution, inputs)(*inputs)[0], execution(*inputs)[0])


def test_nothing_moves_where_all_inputs_are_alike() -> None:
    execution, inputs = prepared()
    for given in (inputs[:1] * 2, inputs[1:] * 2):
        assert early_first(execution.nodes, small_ones(execution.inputs, given)) == execution.nodes

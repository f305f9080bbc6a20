"""What follows from the conditions alone is computed once for them, with the bits of a call that computes it all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import aquatint
from aquatint.compiler.execution import Execution
from aquatint.compiler.hoist import MOST_HELD, WORTH_IT, Held, conditions_among, hoisted
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.module import CompressedModule, fitted
from aquatint.runtime.ops import name_of
from tests.programs import program_of
from tests.zoo import build

PRODUCTS = {"sd": 8, "sdxl": 18, "controlnet": 8, "pixart": 6, "sana": 6, "flux": 3, "wan": 6, "sd3": 3}  # done once


def optimized(name: str) -> tuple[CompressedModule, list[Tensor]]:
    model, (args, kwargs) = build(name)
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(*args, **kwargs))
    return small, small.program.interface.flatten(args, kwargs)[0]


def changed(inputs: list[Tensor], places: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn_like(t) if i in places and t.is_floating_point() else t.clone() for i, t in enumerate(inputs)]


def held_of(small: CompressedModule) -> Held:
    (run,) = small._runs
    assert isinstance(run, Held)
    return run


def whole_of(small: CompressedModule) -> Execution:
    """All in one part."""
    program, target = small.program, small.target
    return Execution(fitted(program.graph, program.weights, target), program.weights, target.lower)


def names(graph: fx.Graph) -> list[str | None]:
    return [name_of(n.target) for n in graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_bits_of_a_call_that_computes_it_all(name: str) -> None:
    small, inputs = optimized(name)
    held = held_of(small)
    whole = whole_of(small)
    everything = tuple(range(len(inputs)))
    conditions = conditions_among(small.program.interface.inputs)
    images = tuple(i for i in everything if i not in conditions)
    others = changed(inputs, everything)
    for given in (inputs, changed(inputs, images), changed(inputs, images), others, changed(others, images), inputs):
        for _ in range(2):
            assert all(map(torch.equal, small.run(given), whole(*given)))
    before, rest = (execution.nodes for execution in held.executions)
    assert sum(name_of(n.target) in WORTH_IT for n in before) == PRODUCTS[name]
    assert len(rest) < len(whole.nodes)


def test_once_for_each_condition() -> None:
    small, inputs = optimized("sd")
    held = held_of(small)
    runs: list[Tensor] = []
    run = held._before
    held._before = lambda *given: runs.append(given[0]) or run(*given)  # type: ignore[assignment]
    text, other, third = (torch.randn_like(inputs[2]) for _ in range(3))

    def call(text: Tensor) -> Tensor:
        return small.run([torch.randn_like(inputs[0]), inputs[1], text])[0]

    for given in (text, text.clone(), other, text, other, text):
        call(given)
    assert len(runs) == 2, "two texts in turn are held"
    call(third)
    call(other)
    assert len(runs) == 4, "no more are"
    assert len(held._known) == MOST_HELD
    image = inputs[0]
    before = small.run([image, inputs[1], other])[0]
    other.mul_(-1)
    assert not torch.equal(small.run([image, inputs[1], other])[0], before), "a text that was written into is another"
    other.mul_(-1)
    assert torch.equal(small.run([image, inputs[1], other])[0], before)


def test_other_sizes_of_a_condition() -> None:
    small, (x, time, text) = optimized("sd")
    whole = whole_of(small)
    for size in (7, 9, 1, 7):
        given = [x, time, torch.randn(2, size, text.shape[2])]
        assert torch.equal(small.run(given)[0], whole(*given)[0])


class ShowsItsText(nn.Module):
    """Returns what it makes of a text as it is, in the shape of x."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.text = (nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)) for _ in range(2))

    def forward(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        told = self.text(text)
        return self.own(x) + told.mean(1, keepdim=True), told.view_as(x)


def test_what_a_caller_may_write_into_is_not_held() -> None:
    x, text = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    small = aquatint.optimize(ShowsItsText().eval(), "w8a16", calibrate=lambda m: m(x, text))
    held_of(small)
    before = [t.clone() for t in small(x, text)]
    for _ in range(4):
        results = small(x, text)
        assert all(map(torch.equal, results, before))
        for result in results:
            result.zero_()


@pytest.mark.parametrize("name", ["dit", "unet2d"])
def test_a_time_and_a_class_are_not_worth_it(name: str) -> None:
    small, _ = optimized(name)
    assert not isinstance(small._runs[0], Held)


def test_the_image_and_the_time_are_no_conditions() -> None:
    def spec(path: str, *shape: int) -> InputSpec:
        return InputSpec(path, "float32", shape)

    specs = (
        spec("sample", 2, 4, 8, 8),
        spec("timestep", 2, 16),
        spec("text", 2, 7, 64),
        spec("guidance", 2),
        spec("ids", 9, 3),
    )
    assert conditions_among(specs) == (2, 4)


def test_shapes_and_sizes_are_left_and_a_result_may_be_held() -> None:
    program = program_of(
        ["%c = aten::ones.default([64])", "%s = aten::add.Tensor(%x, %c)", "%k = aten::linear.default(%s, @w.weight, None)",
         "%t = aten::transpose.int(%k, 1, 2)", "%n = aten::sym_size.int(%x, 1)", "%h = aten::chunk.default(%k, 2, 2)",
         "%a = python::getitem(%h, 0)", "%e = aten::exp.default(%a)", "return [%t, %e, %k]"],
        {"w.weight": torch.randn(64, 64)},
    )  # fmt: skip
    parts = hoisted(program.graph, program.interface.inputs, (0,))
    assert parts is not None
    assert names(parts.before) == [
        "aten::ones.default", "aten::add.Tensor", "aten::linear.default", "aten::chunk.default", "python::getitem",
        "aten::exp.default",
    ]  # fmt: skip
    assert names(parts.rest) == ["aten::transpose.int"]
    assert parts.others == ()
    x = torch.randn(2, 3, 64)
    held = Execution(parts.before, program.weights)(x)
    for own, expected in zip(Execution(parts.rest, program.weights)(*held), program(x), strict=True):
        assert torch.equal(own, expected)


def test_a_profile_names_what_is_done_once() -> None:
    small, inputs = optimized("sd")
    found = small.profile(*inputs)
    assert found["aquatint::gemm*, once"] > 0
    assert found["aquatint::gemm*"] > 0

"""Calls on a GPU as graphs, with a stand-in for the capture where there is none: what it runs, it runs in the same memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import aquatint
from aquatint.compiler.cuda_graph import recorded
from aquatint.compiler.execution import Execution
from aquatint.compiler.repeats import Repeats
from aquatint.runtime import target_named
from tests.programs import image_inputs, normed_block, program_of, token_inputs
from tests.zoo import build, tensors_of


class Captures:
    """Counts launches; a launch leaves new numbers where the results of the first run lay."""

    def __init__(self) -> None:
        self.launches = 0

    def __call__(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        results = [t.clone() for t in run()]

        def launch() -> None:
            self.launches += 1
            for room, value in zip(results, run(), strict=True):
                room.copy_(value)

        return results, launch


def repeats(execution: Execution, capture: Captures) -> Repeats:
    return Repeats(execution, partial(recorded, capture=capture))


def test_calls_of_one_shape_are_launched_and_keep_their_results() -> None:
    program, capture = normed_block(), Captures()
    execution = Execution(program.graph, program.weights)
    run = repeats(execution, capture)
    calls = [call for (call,) in image_inputs(calls=6)]
    kept = [call.clone() for call in calls]
    found = [run(call)[0] for call in calls]
    assert capture.launches == 5, "the first runs as it is"
    for call, result, before in zip(calls, found, kept, strict=True):
        assert torch.equal(call, before)
        assert torch.equal(result, execution(call)[0])
    other = calls[0][:1]
    assert torch.equal(run(other)[0], execution(other)[0])
    assert capture.launches == 5
    assert run.refusal is None


def test_what_waits_for_numbers_is_no_graph() -> None:
    program = program_of(
        ["%m = aten::sum.default(%x)", "%i = aten::item.default(%m)", "%y = aten::add.Tensor(%x, %i)", "return [%y]"], {}
    )
    capture = Captures()
    run = repeats(Execution(program.graph, program.weights), capture)
    for call in token_inputs(calls=4):
        run(*call)
    assert capture.launches == 0
    assert run.refusal == "the numbers in its inputs decide what runs"


def test_what_a_mask_shows_is_no_graph() -> None:
    program = program_of(["%m = aten::gt.Scalar(%x, 0.5)", "%y = aten::index.Tensor(%x, [%m])", "return [%y]"], {})
    capture = Captures()
    run = repeats(Execution(program.graph, program.weights), capture)
    for call in token_inputs(calls=4):
        assert torch.equal(run(*call)[0], call[0][call[0] > 0.5])
    assert capture.launches == 0
    assert run.refusal == "the numbers in its inputs decide what runs"


def test_a_capture_that_fails_is_said_once() -> None:
    def fails(run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        raise RuntimeError("operation not permitted\nmore")

    program = normed_block()
    execution = Execution(program.graph, program.weights)
    run = Repeats(execution, partial(recorded, capture=fails))
    (call,) = image_inputs()[0]
    run(call)
    with pytest.warns(UserWarning, match="operation not permitted; its kernels are launched one by one"):
        second = run(call)
    for results in (second, run(call)):  # a warning is an error here: the third call gives none
        assert torch.equal(results[0], execution(call)[0])
    assert run.refusal == "it can't be captured as a CUDA graph: operation not permitted"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dit", "unet2d", "sd", "flux"])
def test_a_model_as_a_graph(name: str) -> None:
    model, (args, kwargs) = build(name)
    args, kwargs = tree_map(lambda v: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v, (args, kwargs))
    small = aquatint.optimize(model.bfloat16(), "svdq-w4a8-r32-whole", calibrate=lambda m: m(*args, **kwargs))
    native = small.on(target_named("cuda"))
    first, *others = [tensors_of(native(*args, **kwargs)) for _ in range(4)]
    assert native.without_replay() == []
    for again in others:
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a, b)
    image, *rest = args or [kwargs.pop("hidden_states")]
    other = torch.flip(image, [-1])
    found = native(other, *rest, **kwargs)
    alone = small.on(target_named("cuda"))(other, *rest, **kwargs)
    for a, b in zip(tensors_of(found), tensors_of(alone), strict=True):
        assert torch.equal(a, b)

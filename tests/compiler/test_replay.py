"""A replay gives the bits of an ordinary run, keeps its results to itself, and steps aside where it can't serve."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aquatint.compiler.arena import Layout, Room, offsets
from aquatint.compiler.execution import Execution
from aquatint.compiler.pipeline import run_recipe
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Treatment
from aquatint.compiler.repeats import Repeats
from aquatint.compiler.replay import _Recording, recorded, replay_in_place
from aquatint.passes.recipes import SVDQUANT
from aquatint.runtime import target_named
from tests.programs import context_for, image_inputs, normed_block, program_of, random_programs, token_inputs

W4A8 = Treatment("int4-g64", "int8", 8)
W4A4 = Treatment("int4-g64", "int4-g64", 8)


def replayed(program: Program, target: str = "cpu") -> tuple[Execution, Repeats]:
    execution = Execution(program.graph, program.weights, target_named(target).lower)
    return execution, Repeats(execution, recorded)


def check(program: Program, calls: tuple[tuple[Tensor, ...], ...], target: str = "cpu") -> Repeats:
    execution, replays = replayed(program, target)
    results = [(replays(*call), execution(*call)) for call in calls]
    for got, expected in results:  # after all calls: a later one must not write into what an earlier one gave
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
    return replays


@settings(max_examples=40, deadline=None)
@given(random_programs(), st.sampled_from([W4A8, W4A4, None]))
def test_random_programs(program: Program, treatment: Treatment | None) -> None:
    if treatment:
        context = context_for(program, token_inputs(), treatment)
        program, _ = run_recipe(program, tuple(s for s in SVDQUANT if s.name != "smooth"), context)
    assert check(program, token_inputs(calls=5))._replay is not None


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_images(target: str) -> None:
    program, _ = run_recipe(normed_block(), SVDQUANT, context_for(normed_block(), image_inputs(), W4A8))
    assert check(program, image_inputs(calls=4), target)._replay is not None


def test_views_constants_and_parts() -> None:
    lines = ["%t = aten::transpose.int(%x, 1, 2)", "%h = aten::chunk.default(%t, 2, 1)", "%a = python::getitem(%h, 0)",
             "%b = python::getitem(%h, 1)", "%n = aten::sym_size.int(%x, 1)", "%o = aten::ones.default([%n])",
             "%s = aten::mul.Tensor(%a, %o)", "%e = aten::expand.default(%o, [3, %n])",
             "%r = aten::reshape.default(%b, [-1])", "%c = aten::cat.default([%s, %b], 1)",
             "return [%c, %e, %r, %a, %x]"]  # fmt: skip
    check(program_of(lines, {}), token_inputs(calls=4))


def test_other_shapes_in_between() -> None:
    calls = token_inputs(calls=3)
    other = (torch.randn(1, 5, 64),)
    program = program_of(["%y = aten::silu.default(%x)", "return [%y]"], {})
    check(program, (*calls, other, *calls, other, other, other, calls[0]))


@pytest.mark.parametrize(
    "lines",
    [
        ["%m = aten::sum.default(%x)", "%i = aten::item.default(%m)", "%y = aten::add.Tensor(%x, %i)", "return [%y]"],
        ["%m = aten::gt.Scalar(%x, 0.5)", "%y = aten::index.Tensor(%x, [%m])", "return [%y]"],
    ],
)
def test_what_numbers_decide_is_not_replayed(lines: list[str]) -> None:
    repeats = check(program_of(lines, {}), token_inputs(calls=5))
    assert repeats._replay is None
    assert replay_in_place(repeats.execution, token_inputs()[0]) is None


def test_a_recording_holds_no_tensor_but_what_stays() -> None:
    """Small blocks between large ones keep their memory from being used again: a DiT-XL/2 took 100 MB more."""
    program = program_of(["%h = aten::silu.default(%x)", "%y = aten::mul.Tensor(%h, %x)", "return [%y]"], {})
    execution = Execution(program.graph, program.weights)
    recording = _Recording(execution, token_inputs()[0])
    assert all(isinstance(found, Layout) for found in recording.found.values())


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 0, 4), ()])
def test_layouts(shape: tuple[int, ...]) -> None:
    plain = torch.zeros(shape)
    assert Layout.of(plain) == Layout(shape, plain.stride(), torch.float32)
    assert Layout.of(plain).nbytes == 4 * plain.numel()
    assert Layout.of(plain.expand(3, *shape)).anew().is_contiguous()
    turned = torch.zeros(2, 5, 7).transpose(1, 2)
    assert Layout.of(turned).anew().stride() == turned.stride()
    assert Layout.of(turned[:, ::2]).nbytes == 4 * turned[:, ::2].numel(), "no gaps"


def test_large_inputs_and_results_are_not_copied() -> None:
    context = context_for(one_product(), token_inputs(), W4A8)
    program, _ = run_recipe(one_product(), SVDQUANT, context)
    calls = tuple((torch.randn(2, 3000, 64),) for _ in range(5))
    replay = check(program, calls)._replay
    assert replay is not None
    assert {n.op for n in replay._loose} == {"placeholder", "call_function"}
    for call in calls:
        kept = call[0].clone()
        (first,), (second,) = replay(*call), replay(*call)
        assert torch.equal(first, second)
        assert first.data_ptr() != second.data_ptr()
        assert torch.equal(call[0], kept)
    assert not replay._values.keys() & replay._loose, "nothing large is held between calls"


@pytest.mark.parametrize("lie", ["apart", "side by side", "spaced", "in half"])
def test_large_inputs_are_read_where_they_lie(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """x is quantized and added too: a call that is bound once is told of both addresses, or it reads a copy."""
    lines = ["%y = aten::linear.default(%x, @w.weight, None)", "%z = aten::add.Tensor(%x, %y)", "return [%z]"]
    raw = program_of(lines, {"w.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))})
    program, _ = run_recipe(raw, SVDQUANT, context_for(raw, token_inputs(), W4A8))
    wide = torch.randn(5, 2, 5000, 128)
    parts = wide[..., 32:96]
    calls = {
        "apart": [x.clone() for x in parts],
        "side by side": parts.contiguous(),
        "spaced": parts,
        "in half": parts.bfloat16(),
    }
    replays = check(program, tuple((x,) for x in calls[lie]))
    replay = replays._replay
    assert replay is not None
    assert any(n.op == "placeholder" for n in replay._loose) == (lie != "spaced")
    if lie in ("apart", "side by side"):
        expected = [replays.execution(x)[0] for x in calls[lie]]
        for kernel in replays.execution.kernels.values():
            monkeypatch.setattr(kernel, "bind", None)
        for x, y in zip(calls[lie], expected, strict=True):
            assert torch.equal(replay(x)[0], y)


def one_product() -> Program:
    random = torch.Generator().manual_seed(0)
    return program_of(
        ["%y = aten::linear.default(%x, @w.weight, None)", "return [%y]"], {"w.weight": torch.randn(128, 64, generator=random)}
    )


def test_two_threads_at_once() -> None:
    program, _ = run_recipe(normed_block(), SVDQUANT, context_for(normed_block(), image_inputs(), W4A8))
    execution, replays = replayed(program)
    calls = image_inputs(calls=8)
    expected = [execution(*call)[0] for call in calls]
    wrong: list[int] = []

    def serve() -> None:
        for _ in range(5):
            wrong.extend(i for i, call in enumerate(calls) if not torch.equal(replays(*call)[0], expected[i]))

    workers = [threading.Thread(target=serve) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_under_inference_mode_and_without() -> None:
    program, _ = run_recipe(normed_block(), SVDQUANT, context_for(normed_block(), image_inputs(), W4A8))
    execution, replays = replayed(program)
    for mode in (True, True, True, False, True, False):
        call = image_inputs(seed=int(mode))[0]
        with torch.inference_mode(mode):
            assert torch.equal(replays(*call)[0], execution(*call)[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20), st.integers(0, 6)), max_size=30))
def test_rooms_that_meet_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    rooms = [Room(size, first, first + length) for size, first, length in drawn]
    places = offsets(rooms)
    for i, room in enumerate(rooms):
        assert places[i] % 64 == 0
        for j in range(i):
            apart = places[i] + room.size <= places[j] or places[j] + rooms[j].size <= places[i]
            assert apart or not room.meets(rooms[j])

"""Edits: of nothing they change no bit, of all they are a whole run, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import EditError
from aquatint.compiler.execution import Execution
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.regions import Regions
from aquatint.compiler.statistics import Calibration
from aquatint.passes.sparse import Sparse
from aquatint.runtime import target_named
from aquatint.runtime.cpu.native import best_kernel_set
from aquatint.runtime.cuda.target import Cuda

from .zoo import ENCODERS, ZOO, build

KERNELS = best_kernel_set()
# Tiles round the shares of attention to bfloat16, where a last digit may turn one.
NEAR = 5e-4 if KERNELS and KERNELS.tiles else 1e-5


@pytest.mark.native
@pytest.mark.parametrize("name", [*ZOO, *ENCODERS])
def test_an_edit_of_nothing_is_what_was_recorded(name: str) -> None:
    model, (args, kwargs) = build(name)
    program = capture(model.eval(), Example(args, kwargs), name)
    inputs = program.interface.flatten(args, kwargs)[0]
    changed, _ = run_pass(program, Sparse("float32"), Context({}, Calibration((tuple(inputs),))))
    entries, lower = changed.incremental, target_named("cpu").lower
    assert entries is not None
    with torch.no_grad():
        dense = Execution(changed.graph, changed.weights, lower)(*inputs)
        recorded = Execution(entries.record, changed.weights, lower)(*inputs)
        mask = torch.zeros(entries.grid, dtype=torch.bool)
        mask[tuple(slice(size // 3, size // 3 + max(1, size // 5)) for size in entries.grid)] = True
        regions = Regions(mask)
        run = Execution(entries.edit, changed.weights, lower)
        edited = run(*inputs, *map(regions.index, entries.indices), *recorded[len(dense) :])
    for new, old, exact in zip(edited, recorded, dense, strict=False):
        torch.testing.assert_close(old, exact, rtol=1e-4, atol=NEAR)
        assert torch.equal(new, old)


class Convolutions(torch.nn.Module):
    """Down, up, and a way around: nothing in it sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.Conv2d(64, 3, 3, padding=1)
        self.down, self.up = torch.nn.Conv2d(64, 64, 3, 2, 1), torch.nn.Conv2d(64, 64, 3, padding=1)
        self.inner = torch.nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = self.first(x)
        low = torch.relu(self.down(around))
        low = low + self.inner(torch.nn.functional.silu(low))
        high = torch.nn.functional.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.last(torch.nn.functional.silu(self.up(high) + around))


@pytest.mark.native
@pytest.mark.parametrize("reaching", [False, True])
def test_an_edit_that_grows_with_the_layers_is_exact(reaching: bool) -> None:
    torch.manual_seed(0)
    model, image = Convolutions().eval(), torch.randn(1, 3, 32, 32)
    edited = image.clone()
    edited[:, :, 9:12, 20:23] += 1
    program = capture(model, Example((image,), {}), "convolutions")
    changed, _ = run_pass(program, Sparse("float32", reaching=reaching), Context({}, Calibration(((image,),))))
    entries, lower = changed.incremental, target_named("cpu").lower
    assert entries is not None
    mask = (edited != image).any(1)[0]
    with torch.no_grad():
        recorded = Execution(entries.record, changed.weights, lower)(image)
        indices = map(Regions(mask, 0).index, entries.indices)
        result = Execution(entries.edit, changed.weights, lower)(edited, *indices, *recorded[1:])[0]
        far = (result - model(edited)).abs().max()
    assert far < 1e-5 if reaching else far > 1e-2


@pytest.fixture(scope="module")
def small() -> CompressedModule:
    model, _ = build("unet2d")
    x = torch.randn(1, 3, 16, 16)
    return aquatint.optimize(model, "w8a8", calibrate=lambda m: m(x, torch.tensor([5])))


def session(small: CompressedModule, **plan: object) -> aquatint.editing.EditSession:  # type: ignore[name-defined]
    from diffusers import DDIMScheduler

    return aquatint.edit(small, DDIMScheduler(), steps=4, **plan)


IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def painted(size: int = 3) -> torch.Tensor:
    edited = IMAGE.clone()
    edited[:, :, 4 : 4 + size, 5 : 5 + size] = 0.9
    return edited


@pytest.mark.native
def test_edits_build_on_each_other_and_of_all_are_whole_runs(small: CompressedModule) -> None:
    ours = session(small, cache="float32")
    drawn = ours.record(IMAGE, seed=3)
    marked = torch.zeros(16, 16, dtype=torch.bool)
    marked[4:7, 5:8] = True
    assert torch.equal(ours.apply(IMAGE, marked), drawn)
    first = ours.apply(painted())
    assert ours.last is not None
    assert not ours.last.whole
    assert ours.last.multiply_adds < ours.last.dense_multiply_adds
    assert not torch.equal(first, drawn)
    assert torch.equal(ours.apply(painted(), marked), first), "the edit before is what this one builds on"
    everything = ours.apply(painted(8), torch.ones(16, 16, dtype=torch.bool))
    assert ours.last.whole
    assert torch.equal(everything, session(small).draw(painted(8), seed=3))
    marked[:] = False
    marked[2:4, 2:4] = True
    torch.testing.assert_close(
        ours.apply(painted(8), marked), everything, rtol=1e-2, atol=2e-3
    )  # records, edits nothing; codes may flip
    assert not ours.last.whole


@pytest.mark.native
def test_an_edit_that_is_not_kept_leaves_the_recording(small: CompressedModule) -> None:
    ours = session(small)
    ours.record(IMAGE)
    once = ours.apply(painted(), commit=False)
    assert torch.equal(ours.apply(painted(), commit=False), once)


@pytest.mark.native
def test_an_edit_that_is_interrupted_changes_nothing(small: CompressedModule, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = session(small)
    ours.record(IMAGE)
    before = ours.apply(painted(), commit=False)
    step, left = ours.sampler.step, iter(range(1))

    def stopped(*args: object, **kwargs: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(ours.sampler, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        ours.apply(painted(2))
    monkeypatch.undo()
    assert torch.equal(ours.apply(painted(), commit=False), before)


def test_memory_is_told_and_kept_to(small: CompressedModule) -> None:
    eight, four = (session(small, cache=c).memory(IMAGE.shape) for c in ("int8", "int4-g64"))
    plain = session(small, cache="float32").memory(IMAGE.shape)
    assert four < eight < plain
    capped = session(small, memory=int(eight * 0.8))
    assert capped.memory(IMAGE.shape) <= eight * 0.8
    capped.record(IMAGE)
    capped.apply(painted())
    with pytest.raises(EditError, match="bytes at least"):
        session(small, memory=1000).memory(IMAGE.shape)


def test_bad_input_leaves_the_session_usable(small: CompressedModule) -> None:
    ours = session(small)
    with pytest.raises(EditError, match="nothing is recorded"):
        ours.apply(IMAGE)
    ours.record(IMAGE)
    for edited, mask, what in (
        (painted(), torch.ones(8, 8), r"the mask is \[8, 8\]; the image is \[16, 16\]"),
        (painted(), torch.zeros(16, 16), "the mask is empty"),
        (IMAGE, None, "nothing to compute"),
        (painted().repeat(2, 1, 1, 1), None, "record this one anew"),
    ):
        with pytest.raises(EditError, match=what):
            ours.apply(edited, mask)
    assert ours.apply(painted()).shape == IMAGE.shape
    with pytest.raises(EditError, match="strength"):
        session(small, strength=0.0)
    with pytest.raises(EditError, match="Linear"):
        aquatint.edit(torch.nn.Linear(2, 2))
    with pytest.raises(EditError, match="this model is on meta: load or compile it for target cpu"):
        aquatint.edit(small.on(Cuda(None, torch.device("meta"))))

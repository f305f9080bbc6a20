"""Edit what a model has drawn: record a run once, then compute only what an edit touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.entries import Incremental, Kept
from aquatint.compiler.errors import EditError
from aquatint.compiler.execution import Execution
from aquatint.compiler.formats import format_named
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.regions import Regions
from aquatint.compiler.repeats import Repeats
from aquatint.compiler.replay import recorded
from aquatint.compiler.statistics import Calibration
from aquatint.passes.sparse import Sparse
from aquatint.sampling import check_times, noise, sampler_of, step_noise

DENSE_ABOVE = 0.85  # of the multiply-adds of a whole run: from here on that is faster
NOTICED = 1e-3  # a difference between pixels that counts as an edit
CHEAP = 128  # multiply-adds that make a byte: in a cache of 4 bits, what the image does not reach is not kept for less


@dataclass(frozen=True)
class EditPlan:
    """How a session draws.

    steps     of the sampler over all of its time;  strength: the part of them that is run (SDEdit, arXiv 2108.01073)
    guidance  the weight of classifier-free guidance, 1 for none. With another the model is called on twice the batch, and
              conditions have twice as many rows: those wanted first
    cache     what values are kept in: "int8", "int4-g64", or "float32", with which an edit of nothing changes no bit
    margin    places computed around an edit at every resolution
    norms     do the statistics of group norms follow what an edit changes? Else they stay those of the recording
    reaching  is all computed that an edit reaches through convolutions? It grows from layer to layer, and is exact where
              nothing sees the whole image; else the mask at every resolution, which is what editing wants
    memory    bytes that may be kept, or None for as many as it takes; while an edit is made its rows come on top
    """

    steps: int = 20
    strength: float = 0.6
    guidance: float = 1.0
    cache: str = "int8"
    margin: int = 1
    norms: bool = True
    reaching: bool = False
    memory: int | None = None


@dataclass(frozen=True)
class EditReport:
    """Of the last edit: the part of the image that was edited, multiply-adds of all steps, what a whole run takes, and whether
    that was made: it records nothing, so that the next smaller edit begins with a recording."""

    edited: float
    multiply_adds: float
    dense_multiply_adds: float
    whole: bool


@dataclass
class _Recording:
    """What was kept of a run: the tensors of `kept` of each step, and once those that are the same in all of them."""

    image: Tensor
    noise: Tensor | None
    drawn: Tensor
    steps: list[dict[str, Tensor]] = field(default_factory=list)
    once: dict[str, Tensor] = field(default_factory=dict)


def edit(
    compiled: CompressedModule, sampler: Any = None, conditions: Mapping[str, Tensor] | None = None, **plan: Any
) -> EditSession:
    """A session that edits images with `compiled`, a model that `aquatint.optimize` or `aquatint.load` gave.

    sampler     a diffusers scheduler, or a pipeline that has one. Without it the model is called once: a decoder, an encoder
    conditions  what else the model takes, by name: labels, texts
    plan        fields of `EditPlan`

    Raises EditError.
    """
    if not isinstance(compiled, CompressedModule):
        raise EditError(
            f"a {type(compiled).__name__} can't be edited with: give what aquatint.optimize or aquatint.load returned"
        )
    if compiled.device.type != "cpu":
        raise EditError(
            f"edits are computed on a CPU, and this model is on {compiled.device}: load or compile it for target cpu"
        )
    return EditSession(compiled, getattr(sampler, "scheduler", sampler), dict(conditions or {}), EditPlan(**plan))


class EditSession:
    """`record` an image, `apply` edits to it; each builds on those before."""

    def __init__(self, compiled: CompressedModule, sampler: Any, conditions: Mapping[str, Tensor], plan: EditPlan) -> None:
        if sampler is not None and not (0 < plan.strength <= 1 and plan.steps > 0):
            raise EditError(f"{plan.steps} steps with a strength of {plan.strength}: it takes one step, and 0 < strength <= 1")
        self.compiled, self.conditions, self.plan = compiled, conditions, plan
        self.sampler: Any = sampler
        self.last: EditReport | None = None
        self._entries: Incremental | None = None
        self._shape: tuple[int, ...] = ()
        self._recording: _Recording | None = None

    def memory(self, shape: Sequence[int]) -> int:
        """Bytes that recording images of `shape` (N, C, H, W) will keep. Raises EditError where that is over the limit."""
        entries = self._prepare(tuple(shape))
        return self._nbytes(entries)

    def record(self, image: Tensor, seed: int = 0) -> Tensor:
        """Draw from `image` (N, C, H, W), or its latents, and keep what edits need; returns what was drawn.

        seed  of the noise that the sampler begins with
        """
        self._prepare(tuple(image.shape))
        start = None if self.sampler is None else noise(tuple(image.shape[1:]), len(image), seed)
        self._recording = self._whole(image, start)
        return self._recording.drawn.clone()

    def draw(self, image: Tensor, seed: int = 0) -> Tensor:
        """What `record` returns, but for the last digits, when nothing is to be kept."""
        start = None if self.sampler is None else noise(tuple(image.shape[1:]), len(image), seed)
        return self._draw(image, start, self._forward)

    def apply(self, edited: Tensor, mask: Tensor | None = None, *, commit: bool = True) -> Tensor:
        """Draw from `edited`, computing what `mask` (H, W) marks; without a mask, where it differs from what was recorded.

        With `commit`, the next edit builds on this one. Raises EditError; the session then is as it was.
        """
        recording, entries = self._recording, self._entries
        if recording is None or entries is None:
            raise EditError("nothing is recorded yet: call session.record(image) first")
        if edited.shape != recording.image.shape:
            raise EditError(
                f"the edited image is {list(edited.shape)}; {list(recording.image.shape)} was recorded: record this one anew"
            )
        marked = self._mask(edited, mask, recording, entries.grid)
        regions = Regions(marked, self.plan.margin)
        work = [(w.each * (regions.count(w.region) + w.more), w.dense) for w in entries.work]
        done, dense = sum(a for a, _ in work), sum({w.node: w.dense for w in entries.work}.values())
        calls = len(self._times())
        whole = done > DENSE_ABOVE * dense
        if whole:
            changed = _Recording(edited.clone(), recording.noise, self._draw(edited, recording.noise, self._forward))
        else:
            recording = recording if recording.steps else self._whole(recording.image, recording.noise)
            changed = self._edited(edited, recording, entries, regions, commit)
        self.last = EditReport(marked.float().mean().item(), (dense if whole else done) * calls, dense * calls, whole)
        if commit:
            self._recording = changed
        return changed.drawn.clone()

    # What a session is made of

    def _prepare(self, shape: tuple[int, ...]) -> Incremental:
        """The entries for images of a shape, with so much left out that they keep within the plan's memory."""
        if self._entries is not None and shape == self._shape:
            return self._entries
        program = self.compiled.program
        inputs = self._inputs(torch.zeros(shape), self._times()[0])
        context = Context({}, Calibration((tuple(inputs),)))

        def without(names: tuple[str, ...]) -> Incremental:
            changed, _ = run_pass(program, Sparse(self.plan.cache, names, self.plan.norms, self.plan.reaching), context)
            assert changed.incremental is not None
            return changed.incremental

        entries, dropped = without(()), ()
        if small := self._cheap(entries):
            entries = without(small)
        while self.plan.memory is not None and (need := self._nbytes(entries)) > self.plan.memory:
            cheap = sorted((k for k in entries.rows if k.name not in dropped), key=lambda k: k.cost / k.nbytes())
            if not cheap or len(dropped) > 2 * len(entries.kept):
                raise EditError(f"a recording takes {need} bytes at least; the plan's memory is {self.plan.memory}")
            dropped = (*dropped, *(k.name for k in cheap[: max(1, len(cheap) // 4)]))
            entries = without((*small, *dropped))
        lower = self.compiled.target.lower
        self._record_run = Repeats(Execution(entries.record, program.weights, lower), recorded)
        self._edit_run = Repeats(Execution(entries.edit, program.weights, lower), recorded)
        self._entries, self._shape, self._recording = entries, shape, None
        return entries

    def _cheap(self, entries: Incremental) -> tuple[str, ...]:
        """What a cache of 4 bits does without: wholes of each step that a small product makes, as modulations are."""
        if self.plan.cache == "float32" or format_named(self.plan.cache).bits > 4:
            return ()
        wholes = [k for k in entries.kept if k.form == "whole" and not self._is_constant(k)]
        return tuple(k.name for k in wholes if k.cost < CHEAP * k.nbytes())

    def _nbytes(self, entries: Incremental) -> int:
        calls = len(self._times())
        return sum(k.nbytes() * (1 if self._is_constant(k) else calls) for k in entries.kept)

    def _is_constant(self, kept: Kept) -> bool:
        """Is this the same in all steps?"""
        placeholders = [n.name for n in self.compiled.program.graph.nodes if n.op == "placeholder"]
        names = dict(zip(placeholders, (s.path for s in self.compiled.program.interface.inputs), strict=True))
        return not {names[i] for i in kept.inputs} & {self._image_name(), "timestep"}

    def _image_name(self) -> str:
        return self.compiled.program.interface.inputs[0].path

    def _times(self) -> list[Any]:
        """The time stamps that are run, the noisiest first; one that is None for a model without a sampler."""
        if self.sampler is None:
            return [None]
        self.sampler.set_timesteps(self.plan.steps)
        check_times(sampler_of(self.compiled), self.sampler.timesteps)
        times = list(self.sampler.timesteps)
        return times[len(times) - max(1, round(len(times) * self.plan.strength)) :]

    def _inputs(self, image: Tensor, time: Any) -> list[Tensor]:
        image = torch.cat([image, image]) if self.plan.guidance != 1.0 else image
        named = {self._image_name(): image, **self.conditions} | ({} if time is None else {"timestep": time})
        return self.compiled.program.interface.flatten((), named)[0]

    def _mask(self, edited: Tensor, mask: Tensor | None, recording: _Recording, grid: tuple[int, ...]) -> Tensor:
        if mask is None:
            differs = (edited - recording.image).abs() > NOTICED
            kept_axes = range(edited.dim() - len(grid), edited.dim()) if edited.dim() > 3 else [1]
            mask = differs.amax([d for d in range(edited.dim()) if d not in kept_axes])
            if not mask.any():
                raise EditError("the edited image is the one that was recorded: there is nothing to compute")
        mask = mask.squeeze().bool() if mask.dim() > len(grid) else mask.bool()
        if mask.shape != grid:
            raise EditError(f"the mask is {list(mask.shape)}; the image is {list(grid)}")
        if not mask.any():
            raise EditError("the mask is empty: mark what is to be computed")
        return mask

    def _forward(self, place: int, inputs: list[Tensor]) -> Tensor:
        return self.compiled.run(inputs)[0]

    def _start(self, image: Tensor, start: Tensor | None) -> Tensor:
        """The image as the first step sees it."""
        return image if start is None else self.sampler.add_noise(image, start, torch.stack(self._times()[:1]))

    def _whole(self, image: Tensor, start: Tensor | None) -> _Recording:
        """A run of all places, recorded."""
        entries = self._entries
        assert entries is not None
        recording = _Recording(image.clone(), start, image)
        names = [name for k in entries.kept for name in _names(k)]
        constant = {name for k in entries.kept if self._is_constant(k) for name in _names(k)}
        count = len(self.compiled.program.graph.output_node().args[0])  # type: ignore[arg-type]

        def call(place: int, inputs: list[Tensor]) -> Tensor:
            found = self._record_run(*inputs)
            step = dict(zip(names, found[count:], strict=True))
            if not recording.once:
                recording.once = {k: v for k, v in step.items() if k in constant}
            recording.steps.append({k: v for k, v in step.items() if k not in constant})
            return found[0]

        recording.drawn = self._draw(image, start, call)
        return recording

    def _edited(self, image: Tensor, old: _Recording, entries: Incremental, regions: Regions, commit: bool) -> _Recording:
        """A run of some places; behind it, what was kept is brought up to date: an edit that is interrupted changes nothing."""
        indices = [regions.index(i) for i in entries.indices]
        names = [name for k in entries.kept for name in _names(k)]
        updated = [(name, k.places) for k in entries.kept if k.form != "whole" for name in _names(k)]
        new = _Recording(image.clone(), old.noise, image, old.steps if commit else [], old.once)
        updates: list[list[Tensor]] = []
        count = len(self.compiled.program.graph.output_node().args[0])  # type: ignore[arg-type]

        def call(place: int, inputs: list[Tensor]) -> Tensor:
            kept = {**old.once, **old.steps[place]}
            found = self._edit_run(*inputs, *indices, *(kept[name] for name in names))
            updates.append(found[count:] if commit else [])
            return found[0]

        new.drawn = self._draw(image, old.noise, call)
        try:
            for step, values in zip(old.steps, updates, strict=True):
                kept = {**old.once, **step}
                for (name, places), value in zip(updated if commit else (), values, strict=True):
                    if places is None:
                        step[name] = value
                    else:
                        kept[name].index_copy_(1, regions.index(places), value)
        except BaseException:
            old.steps = []  # the next edit records anew
            raise
        return new

    def _draw(self, image: Tensor, start: Tensor | None, call: Any) -> Tensor:
        """All steps; `call` is the model: (which step, its inputs) -> what it predicts."""
        with torch.no_grad():
            if self.sampler is None:
                return call(0, self._inputs(image, None))
            times = self._times()
            noisy = self._start(image, start)
            fresh = step_noise(self.sampler, len(noisy), 0)
            for place, time in enumerate(times):
                given = self.sampler.scale_model_input(noisy, time)
                predicted = call(place, self._inputs(given, time))
                if self.plan.guidance != 1.0:
                    wanted, plain = predicted.chunk(2)
                    predicted = plain + self.plan.guidance * (wanted - plain)
                noisy = self.sampler.step(predicted[:, : noisy.shape[1]], time, noisy, return_dict=False, **fresh)[0]
            return noisy


def _names(kept: Kept) -> list[str]:
    """Of the tensors that a value is kept in."""
    key = f"{kept.form} {kept.name}"
    return [key] if kept.format is None else [key, f"{key} scales"]

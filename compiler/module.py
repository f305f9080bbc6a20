"""The compressed model: a drop-in module that runs a program on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from aquatint.compiler import cuda_graph, replay
from aquatint.compiler.by_step import at_step, steps_of
from aquatint.compiler.errors import InputError
from aquatint.compiler.execution import Execution
from aquatint.compiler.gated import gated
from aquatint.compiler.hoist import Held, conditions_among, hoisted
from aquatint.compiler.interface import InputSpec
from aquatint.compiler.join import joined
from aquatint.compiler.program import Program
from aquatint.compiler.repeats import Repeats
from aquatint.compiler.rotary import rotated
from aquatint.compiler.stopwatch import stopwatch
from aquatint.compiler.text import text
from aquatint.compiler.turned import turned
from aquatint.compiler.weights import Weights
from aquatint.runtime.ops import name_of


class Target(Protocol):
    """What the compiler needs of a target; the targets themselves are in runtime/."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def rotates(self) -> bool: ...

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def gates(self, columns: int) -> bool: ...

    def joins(self, columns: int, format: str) -> bool: ...

    def turns(self, width: int, formats: tuple[str, str]) -> bool: ...


def fitted(graph: fx.Graph, weights: Weights, target: Target) -> fx.Graph:
    """The graph with what the target's kernels do together made one operator."""
    graph = joined(gated(graph, weights, target.gates), weights, target.joins)
    return turned(rotated(graph), weights, target.turns) if target.rotates else graph


def _run(graph: fx.Graph, weights: Weights, target: Target, specs: Sequence[InputSpec], hoists: bool) -> Repeats | Held:
    """As the target's kernels take it, and with `hoists` what follows from the conditions alone done once."""
    graph = fitted(graph, weights, target)
    record = replay.recorded if target.device.type == "cpu" else cuda_graph.recorded

    def ready(part: fx.Graph) -> Repeats:
        return Repeats(Execution(part, weights, target.lower, target.device), record)

    parts = hoisted(graph, specs, conditions_among(specs)) if hoists else None
    return Held(parts, ready(parts.before), ready(parts.rest)) if parts else ready(graph)


class _Config(SimpleNamespace):
    """The model's configuration, by attribute and by key, as diffusers' own."""

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __iter__(self) -> Any:
        return iter(vars(self))

    def get(self, key: str, default: Any = None) -> Any:
        return vars(self).get(key, default)

    def keys(self) -> Any:
        return vars(self).keys()

    def items(self) -> Any:
        return vars(self).items()


class CompressedModule(nn.Module):
    """Called like the model that it was made from; returns the same classes of outputs.

    program  what runs;  report  what was done to each site, as the artifact stores it
    """

    def __init__(self, program: Program, target: Target, recipe: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        super().__init__()
        self.program, self.target, self.recipe, self.report = program, target, recipe, report
        self.config = _Config(**program.config)
        self._steps = steps_of(program.graph)
        count = 0 if self._steps is None else len(self._steps.stamps)
        parts = [at_step(program.graph, program.weights, i) for i in range(count)] or [(program.graph, program.weights)]
        # a GPU would have to be waited for to tell whether a text is the one before; by step each would hold its own
        hoists = target.device.type == "cpu" and self._steps is None
        self._runs = [_run(graph, weights, target, program.interface.inputs, hoists) for graph, weights in parts]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the floating-point inputs, as a pipeline asks for it."""
        floats = [s.dtype for s in self.program.interface.inputs if getattr(torch, s.dtype).is_floating_point]
        return getattr(torch, floats[0]) if floats else torch.float32

    @property
    def device(self) -> torch.device:
        """Where it runs; inputs that are elsewhere are taken there."""
        return self.target.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError when the call does not fit the one that the program was captured with."""
        inputs, as_tuple = self.program.interface.flatten(args, kwargs)
        return self.program.interface.unflatten(self.run(inputs), as_tuple)

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """The program alone: tensors in, tensors out, in the order of its interface."""
        with torch.no_grad():
            try:
                return self._runs[self._step(inputs)](*(t.to(self.device) for t in inputs))
            except RuntimeError as error:
                raise InputError(self._refused(inputs, error)) from error

    def _step(self, inputs: list[Tensor]) -> int:
        """Which of its executions a call is of."""
        return 0 if self._steps is None else self._steps.of(inputs)

    def _refused(self, inputs: list[Tensor], error: RuntimeError) -> str:
        """What the call gave that the captured one did not; torch's own sentence names sizes from inside the model."""
        specs = self.program.interface.inputs
        given = ", ".join(f"{s.path} {list(t.shape)}" for s, t in zip(specs, inputs, strict=True))
        before = [f"{s.path} {list(s.example)}" for s, t in zip(specs, inputs, strict=True) if list(s.example) != list(t.shape)]
        known = (
            f"; it was captured with {', '.join(before)}. If the model takes these sizes, calibrate with them" if before else ""
        )
        return f"the program can't run on {given}{known} (inside: {error})"

    def save(self, path: str | Path) -> None:
        """Write the artifact folder `path`; see `compiler.artifact.save`."""
        from aquatint.compiler.artifact import save

        save(path, self.program, self.recipe, self.report)

    def save_pack(self, path: str | Path) -> None:
        """Write what the distillation of a branch has learned to one small file; see `compiler.speed_pack`."""
        from aquatint.compiler.speed_pack import save_pack

        save_pack(self.program, path)

    def with_pack(self, path: str | Path) -> CompressedModule:
        """This module with the branches and the sampler of a speed pack. Raises ArtifactError for one of another base."""
        from aquatint.compiler.speed_pack import with_pack

        return CompressedModule(with_pack(self.program, path), self.target, self.recipe, self.report)

    def on(self, target: Target) -> CompressedModule:
        """The same program on another target."""
        return CompressedModule(self.program, target, self.recipe, self.report)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressedModule:
        """A module of its own over the same weights, which nobody writes."""
        return CompressedModule(self.program.copy(), self.target, self.recipe, self.report)

    def parts(self, inputs: list[Tensor]) -> list[tuple[Execution, Sequence[Tensor]]]:
        """The executions that a call is made of, with what they take: what is done once for a text first, each call's last."""
        with torch.no_grad():
            return self._runs[self._step(inputs)].calls(*inputs)

    def profile(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Seconds by operator of one call, see `stopwatch`; a compiled kernel's name ends in a star.

        What is done once for all calls with the same text or other conditions is named so, behind a comma.
        """
        inputs, _ = self.program.interface.flatten(args, kwargs)
        spent: dict[str, float] = {}
        *before, each = self.parts(inputs)
        with torch.no_grad():
            for execution, given in (each, *before):
                once = "" if execution is each[0] else ", once"
                for node, seconds in stopwatch(execution, given)(*given).items():
                    name = f"{name_of(node.target)}{'*' if node in execution.kernels else ''}{once}"
                    spent[name] = spent.get(name, 0.0) + seconds
        return spent

    def without_kernel(self) -> list[str]:
        """The quantized operators that the target has no kernel for: they run by their meaning, slowly."""
        return [name for execution in self._runs[0].executions for name in execution.without_kernel()]

    def without_replay(self) -> list[str]:
        """Why calls of the same shapes are not replayed, where that is so; known from the second one on."""
        return [run.refusal for run in self._runs if run.refusal is not None]

    def nbytes(self) -> int:
        """Bytes of the weights, as the artifact stores them."""
        return self.program.nbytes()

    def __str__(self) -> str:
        return text(self.program)

    def extra_repr(self) -> str:
        return f"{self.program.name}, {len(self.program.sites)} sites, {self.nbytes() / 1e6:.2f} MB, target {self.target.name}"

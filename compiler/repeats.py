"""Calls of the same shapes in a row: the second is recorded, and those behind it are replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from aquatint.compiler.execution import Execution, Values
from aquatint.runtime import ops

# What these return, or how large it is, is known by the numbers in their inputs alone.
DECIDING = ("aten::item", "aten::repeat_interleave.Tensor", "aten::repeat_interleave.self_Tensor", "aten::where.default")
TAKES = "aten::index.Tensor"
BY_NUMBERS = "the numbers in its inputs decide what runs"


@dataclass(frozen=True)
class Recorded:
    """What a recorded call gave, and what serves calls of the same shapes from then on: None with the reason."""

    results: list[Tensor]
    replay: Callable[..., list[Tensor]] | None
    refusal: str | None = None


Record = Callable[[Execution, Sequence[Tensor]], Recorded]


class Repeats:
    """Runs an execution; inputs of the same shapes as the two calls before are served by a replay.

    refusal     why no call is replayed, once that is known
    executions  the one that it runs, alone
    """

    def __init__(self, execution: Execution, record: Record) -> None:
        self.execution, self._record = execution, record
        self._last: Any = None
        self._replay: Callable[..., list[Tensor]] | None = None
        self._lock = threading.Lock()
        self.refusal = BY_NUMBERS if goes_by_numbers(execution) else None

    @property
    def executions(self) -> list[Execution]:
        return [self.execution]

    def calls(self, *inputs: Tensor) -> list[tuple[Execution, Sequence[Tensor]]]:
        """The executions that a call is made of, with what they take."""
        return [(self.execution, inputs)]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        ordinary = self.refusal is None and all(type(t) is Tensor for t in inputs) and not _in_a_capture(inputs)
        if not ordinary or not self._lock.acquire(blocking=False):  # another thread is at it
            return self.execution(*inputs)
        try:
            shapes = [(t.shape, t.stride(), t.dtype) for t in inputs]
            if shapes != self._last:
                self._last, self._replay = shapes, None
                return self.execution(*inputs)
            if self._replay is not None:
                return self._replay(*inputs)
            with torch.inference_mode(False), torch.no_grad():
                found = self._record(self.execution, inputs)
            self._replay, self.refusal = found.replay, found.refusal
            return found.results
        finally:
            self._lock.release()


def goes_by_numbers(execution: Execution) -> bool:
    """Is there an operator whose result is known by numbers alone?"""
    return any((ops.name_of(n.target) or "").startswith(DECIDING) for n in execution.nodes)


def takes_by_mask(execution: Execution, node: fx.Node, values: Values) -> bool:
    """Does `node`, whose inputs are in `values`, take the numbers that a mask shows, as many as these are?"""
    if ops.name_of(node.target) != TAKES:
        return False
    indices = [execution.value(n, values) for n in node.all_input_nodes[1:]]
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)


def _in_a_capture(inputs: Sequence[Tensor]) -> bool:
    """Is the caller capturing a graph of its own?"""
    device = next((t.device for t in inputs if t.is_cuda), None)
    if device is None:
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()

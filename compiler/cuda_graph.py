"""A program's run on inputs of one shape on a GPU, as one CUDA graph: launched at once, in memory that was planned with it.

Else the driver is told of every kernel anew, by Python, which takes longer than small kernels do.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aquatint.compiler.execution import Execution
from aquatint.compiler.repeats import BY_NUMBERS, TAKES, Recorded, takes_by_mask
from aquatint.runtime import ops

Run = Callable[[], list[Tensor]]
Capture = Callable[[Run], tuple[list[Tensor], Callable[[], None]]]

ONE_AT_A_TIME = threading.Lock()  # PyTorch captures one graph at a time


@dataclass(frozen=True)
class GraphReplay:
    """Inputs are copied to where the graph reads them, results from where it leaves them, so that those before stay.

    done  when the call before has left that memory; the next one may come on another stream
    """

    device: torch.device
    inputs: Sequence[Tensor]
    results: Sequence[Tensor]
    launch: Callable[[], None]
    done: torch.cuda.Event | None = None

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with _on(self.device):
            if self.done is not None:
                torch.cuda.current_stream().wait_event(self.done)
            for room, given in zip(self.inputs, inputs, strict=True):
                room.copy_(given)
            self.launch()
            results = [result.clone() for result in self.results]
            if self.done is not None:
                self.done.record()
        return results


def captured(run: Run) -> tuple[list[Tensor], Callable[[], None]]:
    """Where a graph of `run` leaves its results, and what launches it. RuntimeError where it waits for the GPU's numbers."""
    before, beside = torch.cuda.current_stream(), torch.cuda.Stream()
    beside.wait_stream(before)
    try:
        with torch.cuda.stream(beside):
            run()  # what is made once and kept is not made in the graph's memory
        before.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            results = run()
    finally:
        torch.cuda.set_stream(before)  # a capture that failed leaves its own in place
    return results, graph.replay


def recorded(execution: Execution, inputs: Sequence[Tensor], capture: Capture = captured) -> Recorded:
    """A call as a graph; an ordinary one with the reason where it can't be."""
    device = execution.device or torch.device("cpu")
    with _on(device), ONE_AT_A_TIME:
        rooms = [t.clone() for t in inputs]
        try:
            if by_mask(execution, rooms):
                return Recorded(execution(*inputs), None, BY_NUMBERS)
            found = capture(lambda: execution(*rooms))
        except RuntimeError as error:
            cause = error.__context__ or error
            refusal = f"it can't be captured as a CUDA graph: {str(cause).splitlines()[0]}"
            warnings.warn(f"{refusal}; its kernels are launched one by one", stacklevel=2)
            return Recorded(execution(*inputs), None, refusal)
        replay = GraphReplay(device, rooms, *found, torch.cuda.Event() if device.type == "cuda" else None)
    return Recorded(replay(*inputs), replay)


def by_mask(execution: Execution, inputs: Sequence[Tensor]) -> bool:
    """Does a call take the numbers that a mask shows? How many they are the GPU alone knows."""
    if not any(ops.name_of(node.target) == TAKES for node in execution.nodes):
        return False
    values = dict(zip(execution.inputs, inputs, strict=True))
    return any(takes_by_mask(execution, node, values) for node in execution.advance(values))


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """The streams that are asked for are this device's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

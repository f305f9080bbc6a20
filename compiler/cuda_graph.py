"""A program's run on inputs of one shape on a GPU, as one CUDA graph: launched at once, in memory that was planned with it.

Else the driver is told of every kernel anew, by Python, which takes longer than small kernels do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.execution import Execution
from aquatint.compiler.repeats import Recorded

Run = Callable[[], list[Tensor]]
Capture = Callable[[Run], tuple[list[Tensor], Callable[[], None]]]


@dataclass(frozen=True)
class GraphReplay:
    """Inputs are copied to where the graph reads them, results from where it leaves them, so that those before stay."""

    inputs: Sequence[Tensor]
    results: Sequence[Tensor]
    launch: Callable[[], None]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for room, given in zip(self.inputs, inputs, strict=True):
            room.copy_(given)
        self.launch()
        return [result.clone() for result in self.results]


def captured(run: Run) -> tuple[list[Tensor], Callable[[], None]]:
    """Where a graph of `run` leaves its results, and what launches it. RuntimeError where it waits for the GPU's numbers."""
    before, beside = torch.cuda.current_stream(), torch.cuda.Stream()
    beside.wait_stream(before)
    try:
        with torch.cuda.stream(beside):
            run()  # what is made once and kept is not made in the graph's memory
        before.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside):
            results = run()
    finally:
        torch.cuda.set_stream(before)  # a capture that failed leaves its own in place
    return results, graph.replay


def recorded(execution: Execution, inputs: Sequence[Tensor], capture: Capture = captured) -> Recorded:
    """An ordinary run, and a graph of it."""
    results = execution(*inputs)
    rooms = [t.clone() for t in inputs]
    try:
        return Recorded(results, GraphReplay(rooms, *capture(lambda: execution(*rooms))))
    except RuntimeError as error:
        refusal = f"it can't be captured as a CUDA graph: {str(error).splitlines()[0]}"
        warnings.warn(f"{refusal}; its kernels are launched one by one", stacklevel=2)
        return Recorded(results, None, refusal)

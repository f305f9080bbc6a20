"""Seconds of each step of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor, fx

from aquatint.compiler.execution import Execution
from aquatint.compiler.replay import replay_of


def stopwatch(execution: Execution, inputs: Sequence[Tensor]) -> Callable[..., dict[fx.Node, float]]:
    """What times calls of inputs like these: on a CPU as a replay runs them; elsewhere each step is waited for."""
    if execution.device is None:
        return replay_of(execution, inputs).seconds
    with torch.no_grad():
        execution(*(t.to(execution.device) for t in inputs))  # what is made once is not timed
    return partial(_step_by_step, execution, execution.device)


@torch.no_grad()
def _step_by_step(execution: Execution, device: torch.device, *inputs: Tensor) -> dict[fx.Node, float]:
    values = dict(zip(execution.inputs, (t.to(device) for t in inputs), strict=True))
    taken: dict[fx.Node, float] = {}
    last, began = None, 0.0
    for node in chain(execution.advance(values), [None]):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        if last is not None:
            taken[last] = now - began
        last, began = node, now
    return taken

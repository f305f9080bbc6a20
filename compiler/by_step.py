"""A low-rank branch of its own for each step of a student: stacked in the program, and one of them wherever it runs.

A call is of one time, and the time says which step it is. So a program with branches by step runs as so many programs, over one
base whose weights are laid out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from aquatint.compiler.edit import is_call
from aquatint.compiler.errors import DistillError, InputError
from aquatint.compiler.program import BRANCH, Program
from aquatint.compiler.weights import Narrow, Stored, Weights, read
from aquatint.runtime import ops
from aquatint.runtime.ops import meanings

OF_STEP = "aquatint::of_step"


@dataclass(frozen=True)
class Steps:
    """The times that a program has branches for, in the order of its steps, and which of its inputs says the time."""

    stamps: tuple[float, ...]
    place: int

    def of(self, inputs: Sequence[Tensor]) -> int:
        """Which step a call is of. Raises InputError for a time that is none, or for several at once."""
        time = inputs[self.place]
        step, known = meanings.step_of(time, self.stamps)
        if not known:
            asked, own = (", ".join(f"{t:g}" for t in times) for times in (sorted(set(time.flatten().tolist())), self.stamps))
            raise InputError(
                f"this student has branches for the times {own}, one of them in a call, and is called at {asked}: sample it "
                "with its own scheduler, in its own number of steps"
            )
        return int(step)


def with_steps(program: Program, stamps: Sequence[float]) -> Program:
    """`program` with its branch once for each of the times `stamps`, all alike. Raises DistillError where it has none.

    Before:  %h = aquatint::gemm(..., @site.up)
    After:   %u = aquatint::of_step(@site.up, %timestep, stamps=(999.0, 499.0));  %h = aquatint::gemm(..., %u)
    """
    changed = program.copy()
    inputs = [n for n in changed.graph.nodes if n.op == "placeholder"]
    time = next((n for n, s in zip(inputs, program.interface.inputs, strict=True) if s.path == "timestep"), None)
    branch = [n for n in changed.graph.nodes if n.op == "get_attr" and str(n.target).endswith(BRANCH)]
    if time is None or not branch or steps_of(program.graph):
        raise DistillError(f"{program.name} takes no timestep, or has no branch, or one by step already")
    for name in {str(node.target) for node in branch}:
        changed.weights[name] = torch.stack([program.weights[name]] * len(stamps))
    for node in branch:
        with changed.graph.inserting_after(max(node, inputs[-1])):
            chosen = changed.graph.call_function(ops.of_step, (node, time), {"stamps": tuple(map(float, stamps))})
        node.replace_all_uses_with(chosen, lambda user, chosen=chosen: user is not chosen)
    return changed


def steps_of(graph: fx.Graph) -> Steps | None:
    """The steps that a graph has branches for, if it has."""
    chosen = next((n for n in graph.nodes if is_call(n, OF_STEP)), None)
    if chosen is None:
        return None
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    return Steps(tuple(chosen.kwargs["stamps"]), inputs.index(chosen.args[1]))


def without_steps(program: Program) -> Program:
    """With the branch of its first step alone, if it has some by step."""
    if steps_of(program.graph) is None:
        return program
    graph, weights = at_step(program.graph, program.weights, 0)
    return replace(program, graph=graph, weights=weights, incremental=None)


def at_step(graph: fx.Graph, weights: Weights, step: int) -> tuple[fx.Graph, Weights]:
    """The graph and weights that run in one step."""
    copy, own = fx.Graph(), Weights(weights)
    copy.output(copy.graph_copy(graph, {}))
    for node in [n for n in copy.nodes if is_call(n, OF_STEP)]:
        stack = node.args[0]
        node.replace_all_uses_with(stack)
        copy.erase_node(node)
        own[stack.target] = _entry(weights.stored(stack.target), step)
    return copy, own


def _entry(stack: Stored, step: int) -> Stored:
    return Narrow(stack.stored[step], stack.dtype) if isinstance(stack, Narrow) else read(stack)[step]

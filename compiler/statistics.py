"""What calibration shows of each group's input, gathered in one walk through the program.

The walk holds the values that are alive at one point of the graph for every calibration call, and the statistics of one
group: nothing is written to disk and no group's inputs are kept after it was treated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from aquatint.compiler.errors import CalibrationError
from aquatint.compiler.execution import Execution
from aquatint.compiler.plan import Group
from aquatint.compiler.program import Program


@dataclass(frozen=True)
class Calibration:
    """Calls of the model to learn from: the program's inputs, in order, for each call; and the seed of all sampling."""

    calls: tuple[tuple[Tensor, ...], ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.calls:
            raise CalibrationError("calibration never called the model: give a callable that runs it at least once")


@dataclass(frozen=True)
class Statistics:
    """rows (S, taps, width): a sample of the input's rows; largest (width,): each channel's largest magnitude;
    gram (K, K): the mean of xᵀx over `count` rows, or None where nobody asked."""

    rows: Tensor
    largest: Tensor
    gram: Tensor | None
    count: int


def sweep(
    program: Program, groups: list[Group], calibration: Calibration, rows: int = 512, gram: bool = False
) -> Iterator[tuple[Group, Statistics]]:
    """Every group with its statistics, in graph order. `rows` is how many sample rows to keep."""
    if not groups:
        return
    execution = Execution(program.graph, program.weights)
    states = [dict(zip(execution.inputs, call, strict=True)) for call in calibration.calls]
    walks = [execution.advance(state) for state in states]
    waiting: dict[fx.Node, list[Group]] = {}
    for group in groups:
        node = program.node_of(group.sites[0])
        waiting.setdefault(node, []).append(group)
    for node in execution.nodes:
        with torch.no_grad():
            for walk in walks:
                next(walk)
        for group in waiting.pop(node, ()):
            yield group, _gather(group, node, [state[group.source] for state in states], calibration.seed, rows, gram)
        if not waiting:
            return


def _gather(group: Group, node: fx.Node, inputs: list[Tensor], seed: int, rows: int, gram: bool) -> Statistics:
    site = group.sites[0]
    inner = site.taps * site.width
    random = torch.Generator().manual_seed(seed)
    share = -(-rows // len(inputs))
    wanted = max(share, -(-4 * inner // len(inputs))) if gram else share
    largest = torch.zeros(site.width)
    sample: list[Tensor] = []
    total, count = torch.zeros(inner, inner) if gram else None, 0
    for value in inputs:
        channels = value.movedim(site.axis, -1).reshape(-1, site.width).float()
        largest = torch.maximum(largest, channels.abs().amax(0))
        picked = _rows(site.kernel, node, value, channels, wanted, random)
        sample.append(picked[:share])
        if total is not None:
            flat = picked.flatten(1)
            total.addmm_(flat.T, flat)
            count += len(flat)
    return Statistics(torch.cat(sample), largest, None if total is None else total.div_(count), count)


def _rows(
    kernel: tuple[int, int], node: fx.Node, value: Tensor, channels: Tensor, wanted: int, random: torch.Generator
) -> Tensor:
    """`wanted` rows (n, taps, width) at random places: tokens, pixels, or the patches that a convolution sees."""
    if kernel == (1, 1):
        places = torch.randperm(len(channels), generator=random)[:wanted]
        return channels[places].unsqueeze(1)
    stride, padding, dilation = convolution_geometry(node)
    padded = F.pad(value.float(), (padding[1], padding[1], padding[0], padding[0])).movedim(1, -1)
    counts = [(padded.shape[1 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    places = torch.randperm(len(padded) * counts[0] * counts[1], generator=random)[:wanted]
    image, place = places // (counts[0] * counts[1]), places % (counts[0] * counts[1])
    top, left = place // counts[1] * stride[0], place % counts[1] * stride[1]
    patches = [padded[image, top + i * dilation[0], left + j * dilation[1]] for i in range(kernel[0]) for j in range(kernel[1])]
    return torch.stack(patches, 1)


def convolution_geometry(node: fx.Node) -> tuple[list[int], list[int], list[int]]:
    """(stride, padding, dilation) of an `aten::conv2d` node, each for height and width."""
    defaults = (None, None, None, [1, 1], [0, 0], [1, 1])
    given = [node.args[i] if i < len(node.args) else node.kwargs.get(n, defaults[i]) for i, n in _GEOMETRY]
    return tuple([v, v] if isinstance(v, int) else (list(v) * 2)[:2] for v in given)  # type: ignore[arg-type,return-value]


_GEOMETRY = ((3, "stride"), (4, "padding"), (5, "dilation"))

"""The times that few steps are best taken at: found in seconds, without training, by dynamic programming over one fine run.

After GITS (Chen et al. 2024, arXiv 2405.11326), section 4: a step costs how far it leads from the fine path that it begins on.
Where nothing is learned the costs of all steps add up; where each step learns, the hardest of them decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from aquatint.compiler.distilling import Says
from aquatint.compiler.process import CLEAN, Process

FINE = 50
SUM, HARDEST = 1.0, 4.0  # norms of the costs; a higher one than 4 finds the same times on the shipped models


def optimal_stamps(
    process: Process, says: Says, noise: Tensor, steps: int, norm: float = SUM, fine: int = FINE
) -> tuple[int, ...]:
    """`steps` of the `fine` times, the noisiest first, whose steps of DDIM lead least far from a fine run of it."""
    times = [*process.stamps(fine), CLEAN]
    costs = step_costs(process, says, noise, times)
    return tuple(times[i] for i in cheapest(costs.double() ** norm, steps))


def step_costs(process: Process, says: Says, noise: Tensor, times: Sequence[int]) -> Tensor:
    """(T, T): root mean square distance from the fine path at time j of one step from time i to it; infinite for j <= i."""
    states, seen, state = [noise], [], noise
    for now, to in pairwise(times):
        time = torch.full((len(state),), now)
        with torch.no_grad():
            clean, rest = process.split(state, says(state, time), time)
        seen.append((clean, rest))
        state = process.noised(clean, rest, to)
        states.append(state)
    costs = torch.full((len(times), len(times)), float("inf"))
    for i, (clean, rest) in enumerate(seen):
        for j in range(i + 1, len(times)):
            costs[i, j] = (process.noised(clean, rest, times[j]) - states[j]).square().mean().sqrt()
    return costs


def cheapest(costs: Tensor, steps: int) -> list[int]:
    """Where each of `steps` steps from the first place to the last begins, so that their costs add up to the least."""
    count = len(costs)
    if not 1 <= steps < count:
        raise ValueError(f"{steps} steps do not lead over {count} times")
    best, origins = costs[0].clone(), []
    for _ in range(steps - 1):
        through = best.unsqueeze(1) + costs
        best, origin = through.min(0)
        origins.append(origin)
    path = [count - 1]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return [0, *reversed(path[1:])]

"""Our search against a plain implementation of the reference recipe, on the linears of one 1152-wide DiT block.

    python -m benchmarks.compression_speed                  # about a quarter of an hour on two cores: the reference is slow
    python -m benchmarks.compression_speed --part attn      # the two attention groups alone

The reference does what deepcompressor does: for each of the 39 smoothing candidates a full float64 SVD of the scaled
weight, then the alternation of SVD and rounding until the error rises, again with full SVDs. Both judge by the same
squared output error on the same rows, with 4-bit weights and inputs, and are compared on other rows. Weights are random
with a decaying spectrum and inputs have outlier channels: nothing can be downloaded here, so the figures speak of speed
and of equal error, not of image quality.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.compiler.numerics import reproducible
from aquatint.compiler.problem import Problem
from aquatint.passes.lowrank import LowRankBranch
from aquatint.passes.smooth import Smooth, smoothing
from benchmarks.records import markdown, write_record

WIDTH, RANK, ROWS = 1152, 32, 512
GROUPS = {
    "attn qkv": (WIDTH, 3 * WIDTH),
    "attn out": (WIDTH, WIDTH),
    "ff up": (WIDTH, 4 * WIDTH),
    "ff down": (4 * WIDTH, WIDTH),
}


@dataclass(frozen=True)
class Outcome:
    """Seconds taken, and the squared output error on rows that were not searched on."""

    seconds: float
    error: float


def make_problem(inner: int, outer: int, seed: int) -> tuple[Problem, Problem]:
    """(to search on, to judge by): the same weight, different rows."""
    random = torch.Generator().manual_seed(seed)
    low = torch.randn(outer, 64, generator=random) * torch.logspace(0.3, -1, 64) @ torch.randn(64, inner, generator=random)
    weight = (torch.randn(outer, inner, generator=random) + low / 4) / inner**0.5
    span = torch.exp(0.7 * torch.randn(inner, generator=random))
    span[torch.randperm(inner, generator=random)[: inner // 100]] *= 12
    rows = torch.randn(2 * ROWS, 1, inner, generator=random) * span
    number = format_named("int4-g64")
    searched, judged = rows.split(ROWS)
    return (
        Problem(searched, weight.unsqueeze(1), number, number, RANK),
        Problem(judged, weight.unsqueeze(1), number, number, RANK),
    )


def ours(problem: Problem) -> tuple[Tensor, Tensor]:
    """(smoothing scale, low-rank part of the smoothed weight) by this package's passes."""
    _, scale, _ = Smooth(rows=ROWS)._search(problem, problem.rows.abs().amax((0, 1)))
    branch, _ = LowRankBranch(rows=ROWS)._alternate(problem.smoothed(scale))
    return scale, branch.up @ branch.down


def reference(problem: Problem) -> tuple[Tensor, Tensor]:
    """The same by full float64 SVDs, candidate by candidate."""
    spans = problem.rows.abs().amax((0, 1)), problem.weight.abs().amax((0, 1))
    best: tuple[float, Tensor] | None = None
    for alpha, beta in Smooth().candidates():
        scale = smoothing(*spans, alpha, beta)
        trial = problem.smoothed(scale)
        residual = trial.weight - full_svd(trial.weight.flatten(1)).view_as(trial.weight)
        error = trial.error(residual, trial.weights_format.roundtrip(residual))
        if best is None or error < best[0]:
            best = (error, scale)
    assert best is not None
    scaled = problem.smoothed(best[1])
    lost = torch.zeros_like(scaled.weight)
    kept: tuple[float, Tensor] | None = None
    for _ in range(100):
        low = full_svd((scaled.weight - lost).flatten(1))
        residual = scaled.weight - low.view_as(scaled.weight)
        lost = scaled.weights_format.roundtrip(residual)
        error = scaled.error(residual, lost)
        if kept is not None and error >= kept[0]:
            break
        kept = (error, low)
    assert kept is not None
    return best[1], kept[1]


def full_svd(weight: Tensor) -> Tensor:
    """The rank-32 part, as deepcompressor takes it."""
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return ((u[:, :RANK] * s[:RANK]) @ v[:RANK]).float()


def judge(problem: Problem, scale: Tensor, low: Tensor) -> float:
    smoothed = problem.smoothed(scale)
    residual = smoothed.weight - low.view_as(smoothed.weight)
    return smoothed.error(residual, smoothed.weights_format.roundtrip(residual))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="", help="only groups whose name starts so")
    options = parser.parse_args()
    reproducible()
    rows, record = [], {}
    chosen = {k: v for k, v in GROUPS.items() if k.startswith(options.part)}
    for seed, (name, (inner, outer)) in enumerate(chosen.items()):
        searched, judged = make_problem(inner, outer, seed)
        plain = judge(judged, torch.ones(inner), torch.zeros(outer, inner))
        outcomes = []
        for method in (ours, reference):
            began = time.perf_counter()
            found = method(searched)
            outcomes.append(Outcome(time.perf_counter() - began, judge(judged, *found)))
        own, other = outcomes
        record[name] = {"ours": vars(own), "reference": vars(other), "unsmoothed, no branch": plain}
        rows.append([
            name, f"{inner} x {outer}", f"{own.seconds:.1f}", f"{other.seconds:.1f}", f"{other.seconds / own.seconds:.1f}",
            f"{own.error / other.error:.4f}", f"{own.error / plain:.3f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    total = [sum(r[m]["seconds"] for r in record.values()) for m in ("ours", "reference")]
    error = [sum(r[m]["error"] for r in record.values()) for m in ("ours", "reference")]
    rows.append(
        ["all", "", f"{total[0]:.1f}", f"{total[1]:.1f}", f"{total[1] / total[0]:.1f}", f"{error[0] / error[1]:.4f}", ""]
    )
    header = ["group", "K x N", "ours s", "reference s", "times faster", "error / reference", "error / plain rounding"]
    print(markdown(header, rows))
    print(write_record("compression_speed", {"groups": record}))


if __name__ == "__main__":
    main()

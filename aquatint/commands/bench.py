"""Time one denoising step of an artifact on its targets, and of the original model where it is given, interleaved."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--model", type=Path, help="the checkpoint that it was made from, to compare with")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--threads", type=int)


def run(options: argparse.Namespace) -> None:
    import torch
    from rich.table import Table

    from aquatint.calibrate import drawn_inputs
    from aquatint.checkpoint import open_checkpoint
    from aquatint.commands.terminal import console
    from aquatint.compression import load

    if options.threads:
        torch.set_num_threads(options.threads)
    small, reference = load(options.artifact, "cpu"), load(options.artifact, "reference")
    contenders: dict[str, Callable[..., Any]] = {"aquatint cpu": small, "aquatint reference": reference}
    if options.model:
        contenders = {"torch fp32": open_checkpoint(options.model).model, **contenders}
    program = small.program
    parameters = {p.name: False for p in program.interface.parameters}
    drawn = drawn_inputs(program.name, program.config, parameters, 0)
    inputs = {k: v[: options.batch] for k, v in drawn.items()}
    timings = interleaved({name: lambda m=m: m(**inputs) for name, m in contenders.items()}, options.repeat)
    baseline = statistics.median(next(iter(timings.values())))
    table = Table(
        box=None, header_style="bold", title=f"{processor()}, {torch.get_num_threads()} threads, batch {options.batch}"
    )
    for name in ("", "median ms", "spread ms", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    for name, seconds in timings.items():
        low, _, high = statistics.quantiles(seconds, n=4)
        median = statistics.median(seconds)
        table.add_row(name, f"{median * 1e3:.2f}", f"{low * 1e3:.2f} - {high * 1e3:.2f}", f"{baseline / median:.2f}x")
    console.print(table)
    console.print(profile_table([small.profile(**inputs) for _ in range(5)]))
    slow = Counter(small.without_kernel())
    listed = ", ".join(f"{count} {name}" for name, count in slow.items()) or "none"
    console.print(f"operators without a compiled kernel, run by their meaning: {listed}")


def profile_table(runs: list[dict[str, float]]) -> Any:
    """Where the time of a step goes: medians by operator over `runs`, the largest first."""
    from rich.table import Table

    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = sum(medians.values())
    table = Table(box=None, header_style="bold", title="aquatint cpu, by operator (*: compiled kernel)")
    for name in ("", "ms", "share"):
        table.add_column(name, justify="right" if name else "left")
    for name, seconds in sorted(medians.items(), key=lambda row: -row[1])[:12]:
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}")
    return table


def interleaved(contenders: dict[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each call, the contenders taking turns so that a noisy moment hits them all."""
    import torch

    timings: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.no_grad():
        for turn in range(repeat + 2):
            for name, call in contenders.items():
                began = time.perf_counter()
                call()
                if turn >= 2:  # the first two turns warm up
                    timings[name].append(time.perf_counter() - began)
    return timings


def processor() -> str:
    """The CPU's own name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")

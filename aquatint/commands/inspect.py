"""Show an artifact: its program, its sites, and why each was treated as it was."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--sites", action="store_true", help="leave the program's text out")


def run(options: argparse.Namespace) -> None:
    from rich.table import Table

    from aquatint.commands.terminal import console
    from aquatint.compiler import artifact
    from aquatint.compiler.report import megabytes
    from aquatint.compiler.text import text

    found = artifact.load(options.artifact)
    if not options.sites:
        print(text(found.program))
    report = found.report
    sizes = report["bytes"]
    console.print(f"[bold]{found.program.name}[/], recipe {report['recipe']}: ", end="")
    console.print(f"{megabytes(sizes['before'])} -> {megabytes(sizes['after'])}")
    for step in found.program.log:
        console.print(f"  {step}", highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("site", "shape", "treatment", "why"):
        table.add_column(name, overflow="fold", min_width=8)
    timed = any("ms after" in row for row in report["sites"])
    for name in ("error", "SQNR dB", "α, β", "bytes", *(["ms"] if timed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    reasons = {reason: f"({i})" for i, reason in enumerate(dict.fromkeys(row["reason"] for row in report["sites"]), 1)}
    for row in report["sites"]:
        shape = "x".join(map(str, row["shape"]))
        figures = [f"{row['error']:.4f}", _decibel(row["sqnr"])] if "error" in row else ["", ""]
        smoothing = f"{row['alpha']:.2f}, {row['beta']:.2f}" if "alpha" in row else ""
        style = None if row["treatment"] else "dim"
        saved = f"{row['bytes before']:,} -> {row['bytes after']:,}"
        cost = [f"{row['ms before']:.3f} -> {row['ms after']:.3f}" if "ms after" in row else ""] if timed else []
        why = reasons[row["reason"]]
        table.add_row(row["name"], shape, row["treatment"] or "kept", why, *figures, smoothing, saved, *cost, style=style)
    console.print(table)
    for reason, number in reasons.items():
        console.print(f"{number} {reason}", markup=False, highlight=False)


def _decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"

"""Name what makes an ONNX file slow in onnxruntime on this CPU: each node, what it took, why, and the mend."""

from __future__ import annotations

import argparse
from pathlib import Path

from aquatint.commands.sizes import add_argument, sizes_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    add_argument(parser, "a free dimension, e.g. batch=2")
    parser.add_argument("--threads", type=int, default=0, help="0: as onnxruntime chooses (default)")
    parser.add_argument("--runs", type=int, default=10)


def run(options: argparse.Namespace) -> int:
    """1 where something was found."""
    from aquatint.compiler.errors import ExportError, InputError

    try:
        from aquatint.runtime.ort.lint import LintError, lint
    except ModuleNotFoundError as error:
        raise ExportError(f"lint needs onnx, onnx_ir and onnxruntime: pip install 'aquatint[onnx]' ({error})") from error
    if not options.model.is_file():
        raise InputError(f"{options.model} is no file")
    try:
        found = lint(options.model, sizes_of(options.size), options.threads, options.runs)
    except LintError as error:
        raise InputError(str(error)) from error
    _show(options.model, found)
    return 1 if found.findings else 0


def _show(path: Path, found: object) -> None:
    from rich.table import Table

    from aquatint.commands.terminal import console
    from aquatint.runtime.ort.lint import Lint

    assert isinstance(found, Lint)
    slow = sum(f.ms for f in found.findings)
    console.print(f"{path}: {found.ms:.2f} ms a run, {slow:.2f} ms of it in {len(found.findings)} findings", markup=False)
    rules = list(dict.fromkeys(f.rule for f in found.findings))
    for rule in rules:
        nodes = [f for f in found.findings if f.rule is rule]
        share = sum(f.share for f in nodes)
        console.print(f"\n[bold]{rule.name}[/bold]: {len(nodes)} nodes, {sum(f.ms for f in nodes):.2f} ms, {share:.0%}")
        console.print(f"  why   {rule.why}\n  mend  {rule.mend}", markup=False)
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in nodes[:8]:
            table.add_row("   ", f"{finding.ms:.3f} ms", f"{finding.share:.1%}", finding.node)
        console.print(table)
        if len(nodes) > 8:
            console.print(f"      and {len(nodes) - 8} more")
    dearest = sorted(found.operators.items(), key=lambda item: -item[1])[:6]
    console.print("\nby operator: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in dearest), markup=False)

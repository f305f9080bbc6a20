"""Dated results: what was measured, on what, as JSON in benchmarks/results."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def todays_record(name: str) -> dict[str, Any] | None:
    """What was written today under this name, or None."""
    path = RESULTS / f"{name}-{_today()}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def latest_record(name: str) -> dict[str, Any] | None:
    """What was last written under this name, or None. For figures that are the same on any machine: no times."""
    path = max(RESULTS.glob(f"{name}-[0-9]*.json"), default=None)
    return json.loads(path.read_text()) if path else None


def _today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def write_record(name: str, data: dict[str, Any]) -> Path:
    """benchmarks/results/NAME-DATE.json, with the machine and versions in it."""
    import torch

    from aquatint.commands.bench import processor

    today = _today()
    machine = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    path = RESULTS / f"{name}-{today}.json"
    path.write_text(json.dumps({"date": today, "python": platform.python_version(), **machine, **data}, indent=1) + "\n")
    return path


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table for docs/."""
    lines = [f"| {' | '.join(header)} |", "|" + "|".join(["---"] + ["--:"] * (len(header) - 1)) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"

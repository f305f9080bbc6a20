"""The picture of the peers' table."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars by case and contender: how many times faster than torch fp32; ours in colour, the ceiling as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 2
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(11, 3.4 * lines), squeeze=False)
    for axis, (case, rows) in zip(axes.flat, results.items(), strict=False):
        base = rows["torch fp32"]["ms"]
        shown = {n: base / r["ms"] for n, r in rows.items() if "ms" in r and not n.startswith("bare")}
        colours = ["#b5482a" if n.startswith("aquatint") else "#9aa5b1" for n in shown]
        bars = axis.barh(list(shown), list(shown.values()), color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
        if "ms" in rows.get("bare integer loop", {}):
            axis.axvline(base / rows["bare integer loop"]["ms"], color="#30343a", linestyle=":", linewidth=1)
        axis.invert_yaxis()
        axis.set_title(case, fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    figure.suptitle("times faster than torch fp32 (dotted: the bare integer loop)", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    figure.savefig(path, dpi=120)

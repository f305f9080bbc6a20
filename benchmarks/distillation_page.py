"""docs/distillation.md and its pictures: curves of quality against steps, and the same noise drawn by each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from benchmarks.records import markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = """`python -m benchmarks.distillation` on a CPU.
Fréchet distance to real images / root mean square distance to the teacher's images in 50 steps from the same noise. Every
student is trained for the same number of the model's evaluations, a pass backwards counted as two, and methods that want images
get the teacher's."""
COLUMNS = 12
BESIDE = ("quantized", "speed", "timed", "about")  # what else is known of a model than methods by steps


def tables(results: dict[str, Any]) -> str:
    """Fréchet distance / distance to the teacher, by method and steps; what is quantized; and times."""
    parts = []
    for name, found in results.items():
        plain = {label: row for label, row in found.items() if label not in BESIDE}
        counts = sorted({int(n) for row in plain.values() for n in row})
        rows = [[label, *(_cell(row.get(str(n))) for n in counts)] for label, row in plain.items()]
        parts.append(
            f"## fashion-{name}\n\n{found['about']}.\n\n{markdown(['Fréchet / apart', *(f'{n} steps' for n in counts)], rows)}"
        )
        if "quantized" in found:
            by_format = sorted(found["quantized"].items(), key=lambda row: row[0][: len("W4A8")], reverse=True)
            parts.append(markdown(["4 steps", "Fréchet / apart"], [[k, _cell(v)] for k, v in by_format]))
        if "speed" in found:
            first = next(iter(found["speed"].values()))["ms"]
            rows = [[k, f"{v['ms']:.0f}", f"{first / v['ms']:.1f}", f"{v['spread']:.0%}"] for k, v in found["speed"].items()]
            where = f"{found['timed']}:\n\n" if found.get("timed") else ""
            parts.append(where + markdown(["an image, from noise on", "ms", "times faster", "spread"], rows))
    return "\n".join(parts)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return "refused" if "refused" in found else f"{found['Fréchet']:.1f} / {found['apart']:.3f}"


def page(record: str, results: dict[str, Any]) -> None:
    """Write docs/distillation.md and its curves; the images beside them are those that were drawn last."""
    shown = []
    for name, found in results.items():
        curves(name, found)
        shown += [f"![fashion-{name}: distances by steps](distillation-{name}.png)\n"]
        shown += [f"![fashion-{name}: images from the same noise](distillation-{name}-images.png)\n"]
    head = f"# Fewer steps: results\n\n{record}; {NOTE}\n\n" + "\n".join(shown) + "\n"
    (DOCS / "distillation.md").write_text(head + tables(results))


def curves(name: str, found: dict[str, Any]) -> None:
    """docs/distillation-NAME.png: both distances against steps."""
    figure, sides = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    titles = {"Fréchet": "Fréchet distance to real images", "apart": "RMS distance to the teacher's images, same noise"}
    for side, (figure_of, title) in zip(sides, titles.items(), strict=True):
        for label, row in found.items():
            points = sorted((int(n), v[figure_of]) for n, v in row.items() if v.get(figure_of)) if label not in BESIDE else []
            if points:
                plain = label.startswith(("DDIM", "DPM"))
                style = "--" if plain else ":" if "aims at" in label else "-"
                side.plot(*zip(*points, strict=True), style, marker="o", ms=4, lw=1.2 if plain else 1.8, label=label)
        side.set(xscale="log", yscale="log", xlabel="steps", title=title)
        side.set_xticks([1, 2, 4, 8, 16, 50], ["1", "2", "4", "8", "16", "50"])
        side.minorticks_off()
        side.grid(alpha=0.25)
    sides[0].axhline(found["DDIM"]["50"]["Fréchet"], color="0.6", lw=0.8, label="the teacher in 50 steps")
    sides[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"fashion-{name}")
    figure.savefig(DOCS / f"distillation-{name}.png", dpi=110)
    plt.close(figure)


def images(name: str, strips: dict[str, Tensor]) -> None:
    """docs/distillation-NAME-images.png: a row of images for each way, from the same noise."""
    sheet = torch.cat([torch.cat(list(drawn[:COLUMNS, 0]), 1) for drawn in strips.values()])
    size = next(iter(strips.values())).shape[-1]
    figure, side = plt.subplots(figsize=(9, 0.62 * len(strips)), layout="constrained")
    side.imshow(sheet.clamp(-1, 1), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    side.set_yticks([size * (i + 0.5) for i in range(len(strips))], list(strips), fontsize=8)
    side.set_xticks([])
    side.tick_params(length=0)
    for edge in side.spines.values():
        edge.set_visible(False)
    figure.savefig(DOCS / f"distillation-{name}-images.png", dpi=110)
    plt.close(figure)

"""docs/distillation.md and its picture: curves of quality against steps, and the same noise drawn by each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.records import markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = """`python -m benchmarks.distillation` on a CPU.
Fréchet distance to real images / root mean square distance to the teacher's images in 50 steps from the same noise. Every
student is trained for the same number of the model's evaluations, a pass backwards counted as two, and methods that want images
get the teacher's."""
COLUMNS = 12
BESIDE = ("quantized", "speed", "about")  # what else is known of a model than methods by steps


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
            parts.append(markdown(["4 steps", "Fréchet / apart"], [[k, _cell(v)] for k, v in found["quantized"].items()]))
        if "speed" in found:
            first = next(iter(found["speed"].values()))["ms"]
            rows = [[k, f"{v['ms']:.0f}", f"{first / v['ms']:.1f}", f"{v['spread']:.0%}"] for k, v in found["speed"].items()]
            parts.append(markdown(["an image, from noise on", "ms", "times faster", "spread"], rows))
    return "\n".join(parts)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return "refused" if "refused" in found else f"{found['Fréchet']:.1f} / {found['apart']:.3f}"


def page(record: str, results: dict[str, Any]) -> None:
    """Write docs/distillation.md."""
    pictures = "\n".join(
        f"![Distances by steps, and images from the same noise](distillation-{name}.png)\n" for name in results
    )
    head = f"# Fewer steps: results\n\n{record}; {NOTE}\n\n{pictures}\n"
    (DOCS / "distillation.md").write_text(head + tables(results))


def picture(name: str, found: dict[str, Any], strips: dict[str, Tensor]) -> None:
    """docs/distillation-NAME.png: curves on the left; on the right a row of images for each way, from the same noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), width_ratios=(1, 1.25), layout="constrained")
    for label, row in found.items():
        points = sorted((int(n), v["Fréchet"]) for n, v in row.items() if "Fréchet" in v) if label not in BESIDE else []
        if points:
            plain = label.startswith(("DDIM", "DPM"))
            style = "--" if plain else ":" if "aims at" in label else "-"
            left.plot(*zip(*points, strict=True), style, marker="o", ms=4, lw=1.2 if plain else 1.8, label=label)
    left.axhline(found["DDIM"]["50"]["Fréchet"], color="0.6", lw=0.8, label="the teacher in 50 steps")
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="Fréchet distance to real images", title=f"fashion-{name}")
    left.set_xticks([1, 2, 4, 8, 16, 50], ["1", "2", "4", "8", "16", "50"])
    left.minorticks_off()
    left.grid(alpha=0.25)
    left.legend(fontsize=8, frameon=False)

    sheet = torch.cat([torch.cat(list(images[:COLUMNS, 0]), 1) for images in strips.values()])
    right.imshow(sheet.clamp(-1, 1), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    size = next(iter(strips.values())).shape[-1]
    right.set_yticks([size * (i + 0.5) for i in range(len(strips))], list(strips), fontsize=8)
    right.set_xticks([])
    right.tick_params(length=0)
    for side in right.spines.values():
        side.set_visible(False)
    figure.savefig(DOCS / f"distillation-{name}.png", dpi=110)
    plt.close(figure)

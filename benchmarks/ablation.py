"""The ablation of the SVDQuant paper (arXiv 2411.05007, figure 11) on the two shipped models, W4A4.

    python -m benchmarks.ablation            # writes docs/ablation.md and a dated JSON

Round-to-nearest, + smoothing, + low rank, + both, + GPTQ. Every variant draws the same images from the same seeds as the
fp32 model; figures are means over the seeds with 95 % confidence intervals (normal approximation). Differences between
neighbouring rows are taken seed by seed, so their intervals are narrower than those of the rows.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aquatint.calibrate import Recorder
from aquatint.checkpoint import open_checkpoint
from aquatint.commands.demo import MODELS, SUBJECTS, Subject
from aquatint.compiler.capture import capture
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.numerics import reproducible
from aquatint.compiler.recipe import Pass, Recipe, Treatment
from aquatint.compression import calibration_for, compress
from aquatint.passes.canonicalize import Canonicalize
from aquatint.passes.fuse import Fuse
from aquatint.passes.lowrank import LowRankBranch
from aquatint.passes.quantize import Quantize
from aquatint.passes.recipes import default_rules
from aquatint.passes.smooth import Smooth
from aquatint.quality import FeatureSpace, pixel_distance, psnr
from aquatint.runtime import target_named
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.records import markdown, write_record

VARIANTS: dict[str, tuple[int, tuple[Pass, ...]]] = {
    "round to nearest": (0, (Quantize("rtn"),)),
    "+ smoothing": (0, (Smooth(), Quantize("rtn"))),
    "+ low rank": (32, (LowRankBranch(), Quantize("rtn"))),
    "+ both": (32, (Smooth(), LowRankBranch(), Quantize("rtn"))),
    "+ both + GPTQ": (32, (Smooth(), LowRankBranch(), Quantize("gptq"))),
}
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=256)
    options = parser.parse_args()
    reproducible()
    space = FeatureSpace.load(MODELS / "fashion-classifier" / "classifier.safetensors")
    results = {subject.name: measure(subject, options.seeds, space) for subject in SUBJECTS}
    path = write_record("ablation", {"seeds": options.seeds, "steps": STEPS, "models": results})
    page = Path(__file__).parent.parent / "docs" / "ablation.md"
    page.write_text(document(results, options.seeds, path.name))
    print(page.read_text())


def measure(subject: Subject, seeds: int, space: FeatureSpace) -> dict[str, Any]:
    """Figures of each variant of one model."""
    checkpoint = open_checkpoint(MODELS / subject.folder)

    def draw(model: Any, count: int, first: int) -> Tensor:
        labels = torch.arange(count) % subject.classes if subject.classes else None
        plan = SamplingPlan(STEPS, subject.guidance)
        return sample(model, checkpoint.scheduler, noise((1, 28, 28), count, first), plan, labels, subject.classes)

    with Recorder(checkpoint.model, 16) as recorder:
        draw(checkpoint.model, 16, 1_000_000)
    program = capture(checkpoint.model, recorder.examples[0], subject.folder)
    calibration = calibration_for(program, recorder.examples, 0)
    original = draw(checkpoint.model, seeds, 0)
    rows: dict[str, Any] = {}
    for name, (rank, passes) in VARIANTS.items():
        rules = default_rules(Treatment("int4-g64", "int4-g64", rank), Treatment("int4-g64"))
        final, report = compress(program, Recipe(name, (Canonicalize(), *passes, Fuse()), rules), calibration)
        images = draw(CompressedModule(final, target_named("cpu"), {}, report), seeds, 0)
        errors = {kind: [] for kind in ("linear", "convolution")}
        for row in report["sites"]:
            if "error" in row and row["treatment"] != "int4-g64 x float":
                errors["linear" if set(row["shape"][2:]) <= {1} else "convolution"].append(row["error"])
        rows[name] = {
            "psnr": psnr(images, original).tolist(),
            "distance": pixel_distance(images, original).tolist(),
            "frechet": space.distance(images),
            "site error": {kind: math.sqrt(sum(e * e for e in found) / len(found)) for kind, found in errors.items() if found},
            "bytes": final.nbytes(),
        }
        print(subject.name, name, figure(rows[name]["psnr"], 2), figure(rows[name]["distance"], 2), flush=True)
    rows["fp32"] = {"frechet": space.distance(original)}
    return rows


def figure(values: list[float], digits: int) -> str:
    """Mean and half the 95 % confidence interval."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return f"{mean:.{digits}f} ± {1.96 * spread:.{digits}f}"


def document(results: dict[str, Any], seeds: int, record: str) -> str:
    lines = [
        "# Ablation: what each part of SVDQuant brings, at W4A4",
        "",
        f"`python -m benchmarks.ablation --seeds {seeds}` made this page; raw: `benchmarks/results/{record}`.",
        f"Each variant draws the same {seeds} images as fp32 (same seeds, {STEPS} steps). ± is a 95 % confidence interval over",
        "seeds; *gain* is the PSNR difference to the row above it, seed by seed (for *+ low rank* and *+ both* to the row that",
        "they add to: round to nearest, and low rank). Site error: root mean square of the relative output errors, of linears",
        "(and 1 x 1 convolutions), and of k x k convolutions.",
        "",
    ]
    above = {
        "+ smoothing": "round to nearest",
        "+ low rank": "round to nearest",
        "+ both": "+ low rank",
        "+ both + GPTQ": "+ both",
    }
    for model, rows in results.items():
        table = []
        for name in VARIANTS:
            row, base = rows[name], rows.get(above.get(name, ""))
            gain = figure([a - b for a, b in zip(row["psnr"], base["psnr"], strict=True)], 2) if base else ""
            table.append([
                name, figure(row["psnr"], 2), gain, figure(row["distance"], 2),
                " / ".join(f"{e:.4f}" for e in row["site error"].values()), f"{row['frechet']:.1f}",
                f"{row['bytes'] / 1e6:.2f}",
            ])  # fmt: skip
        header = ["W4A4", "PSNR dB ↑", "gain dB", "pixel distance ↓", "site error ↓", "Fréchet ↓", "MB"]
        lines += [
            f"## {model}",
            "",
            f"fp32 has a Fréchet distance of {rows['fp32']['frechet']:.1f}.",
            "",
            markdown(header, table),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

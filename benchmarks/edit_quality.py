"""Sparse editing: how near edits are to whole runs of what was edited, and what they take with the recording counted.

    python -m benchmarks.edit_quality      # docs/edit_quality.md and a dated JSON

Both shipped models draw images; squares of 1.2 to 60 % of these are replaced by what other images have there, and all is drawn
again by SDEdit (arXiv 2108.01073). Quality is over all images, with caches in float32, int8 and int4; time is that of one
image, the contenders taking turns, in float32 and in W4A8.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import aquatint
from aquatint.checkpoint import open_checkpoint
from aquatint.commands.demo import MODELS
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.module import CompressedModule
from aquatint.quality import FeatureSpace, psnr
from aquatint.runtime import target_named
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.records import markdown, write_record
from benchmarks.sparse_editing import EDITED, square

ROOT = Path(__file__).resolve().parent.parent
CACHES = ("float32", "int8", "int4-g64")
EDITS = (1, 3, 10)


def conditions(name: str, count: int) -> dict[str, Tensor]:
    return {"class_labels": torch.arange(count) % 10} if "dit" in name else {}


def pasted(images: Tensor, mask: Tensor) -> Tensor:
    """What a mask marks is replaced by the next image's."""
    return torch.where(mask, images.roll(1, 0), images)


def quality(name: str, small: CompressedModule, sampler: Any, images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """For each part that is edited and each cache: dB to the whole run of the edit, and Fréchet distances."""
    space = FeatureSpace.load(MODELS / "fashion-classifier" / "classifier.safetensors")
    found: dict[str, Any] = {}
    for part in EDITED:
        mask = square((28, 28), part)
        edited = pasted(images, mask)
        given = conditions(name, len(images))
        dense = aquatint.edit(small, sampler, given, steps=options.steps, strength=0.6)
        before, whole = dense.draw(images, seed=100), dense.draw(edited, seed=100)
        row: dict[str, Any] = {}
        for cache in CACHES:
            session = aquatint.edit(small, sampler, given, steps=options.steps, strength=0.6, cache=cache)
            recorded = session.record(images, seed=100)
            same = session.apply(images, mask, commit=False)
            result = session.apply(edited, mask, commit=False)
            row[cache] = {
                "dB": psnr(result, whole).mean().item(),
                "Fréchet": space.distance(result),
                "dB of nothing": psnr(same, recorded).clamp(max=200).mean().item(),
                "whole": session.last and session.last.whole,
                "MB": session.memory(images.shape) / 1e6,
            }
        row["recorded"] = {"dB": psnr(before, whole).mean().item(), "Fréchet": space.distance(whole)}
        found[f"{part:.1%}"] = row
    return found


def speed(
    name: str, modules: dict[str, CompressedModule], sampler: Any, image: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Milliseconds of whole runs, of recordings and of edits of one image."""
    runs: dict[str, Callable[[], Any]] = {}
    for kind, module in modules.items():
        given = conditions(name, 1)
        session = aquatint.edit(module, sampler, given, steps=options.steps, strength=0.6)
        session.record(image)
        runs[f"{kind}, whole"] = lambda s=session: s.draw(image)
        runs[f"{kind}, record"] = lambda s=session: s.record(image)
        for part in EDITED:
            mask = square((28, 28), part)
            own = aquatint.edit(module, sampler, given, steps=options.steps, strength=0.6)
            own.record(image)
            runs[f"{kind}, {part:.1%}"] = lambda s=own, m=mask: s.apply(image, m)
    seconds: dict[str, list[float]] = {n: [] for n in runs}
    for run in runs.values():
        run()
    for _ in range(options.turns):
        for label, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[label].append(time.perf_counter() - began)
    return {
        n: {"ms": 1e3 * statistics.median(s), "spread": (max(s) - min(s)) / statistics.median(s)} for n, s in seconds.items()
    }


def tables(results: dict[str, Any]) -> str:
    """Quality and time of each model."""
    parts: list[str] = []
    for name, found in results.items():
        rows = []
        for part, row in found["quality"].items():
            by_cache = [f"{row[c]['dB']:.1f} / {row[c]['Fréchet']:.1f}" + " (whole)" * bool(row[c]["whole"]) for c in CACHES]
            rows.append([part, *by_cache, f"{row['recorded']['dB']:.1f}", f"{row['recorded']['Fréchet']:.1f}"])
        first = next(iter(found["quality"].values()))
        kept = ", ".join(f"{c} {first[c]['MB'] / found['images']:.2f} MB ({first[c]['dB of nothing']:.0f} dB)" for c in CACHES)
        header = ["edited", *(f"{c}: dB / Fréchet" for c in CACHES), "the recording, dB", "whole run, Fréchet"]
        parts.append(
            f"## {name}\n\n{markdown(header, rows)}\nKept for an image, and an edit of nothing beside the recording: {kept}.\n"
        )
        rows = []
        times = {n: v["ms"] for n, v in found["speed"].items()}
        kinds = list(dict.fromkeys(n.split(",")[0] for n in times))
        for part in (f"{p:.1%}" for p in EDITED):
            row = [part]
            for kind in kinds:
                whole, record, edit = (times[f"{kind}, {what}"] for what in ("whole", "record", part))
                shared = " / ".join(f"{count * whole / (record + count * edit):.1f}" for count in EDITS)
                row += [f"{edit:.0f}", f"{whole / edit:.1f}", shared]
            rows.append(row)
        header = ["edited", *(h for kind in kinds for h in (f"{kind}, ms", "x whole", "with the recording, 1 / 3 / 10 edits"))]
        wholes = ", ".join(
            f"{k} {times[f'{k}, whole']:.0f} ms whole and {times[f'{k}, record']:.0f} ms recorded" for k in kinds
        )
        parts.append(f"One image, all steps: {wholes}.\n\n{markdown(header, rows)}")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    for name in ("fashion-dit", "fashion-unet"):
        checkpoint = open_checkpoint(MODELS / name)
        small = aquatint.optimize(checkpoint.model, sampler=checkpoint.scheduler)
        start, labels = noise((1, 28, 28), options.images, 0), conditions(name, options.images).get("class_labels")
        images = sample(small, checkpoint.scheduler, start, SamplingPlan(options.steps), labels).clamp(-1, 1)
        example = Example(
            (torch.randn(2, 1, 28, 28), torch.tensor([5, 9]), *([torch.tensor([1, 2])] if labels is not None else []))
        )
        plain = CompressedModule(capture(checkpoint.model, example, name), target_named("cpu"), {}, {})
        results[name] = {
            "images": options.images,
            "quality": quality(name, small, checkpoint.scheduler, images, options),
            "speed": speed(name, {"fp32": plain, "W4A8": small}, checkpoint.scheduler, images[:1], options),
        }
        print(tables({name: results[name]}), flush=True)
    path = write_record("edit_quality", {"threads": options.threads, "results": results})
    from aquatint.commands.bench import processor

    command = f"python -m benchmarks.edit_quality {shlex.join(sys.argv[1:])}".strip()
    head = f"""# Sparse editing: quality, and time with the recording counted

`{command}` on {processor()}, {options.threads} threads; raw: `benchmarks/results/{path.name}`.
{options.images} images, SDEdit over 60 % of {options.steps} steps; squares are replaced by what other images have there.
dB: PSNR beside a whole run of the edited image, of the W4A8 model; the recording stands for doing nothing. "(whole)": so much
was edited that a whole run was made.

"""
    (ROOT / "docs" / "edit_quality.md").write_text(head + tables(results))


if __name__ == "__main__":
    main()

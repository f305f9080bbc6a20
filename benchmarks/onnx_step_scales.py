"""Do fixed scales for each time step pay? The shipped U-Net with one range for all steps, and with each step's own.

    python -m benchmarks.onnx_step_scales      # prints the table, writes a dated JSON

For four fixed steps: the ranges are observed on the calls of one sampling run at that step alone, the file is exported with
them, and its step is held against fp32 on another run's images at the same step. Beside it the file with the ranges of all
steps, and the one that finds its scales as it goes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import aquatint
from aquatint.calibrate import Recorder
from aquatint.checkpoint import open_checkpoint
from aquatint.commands.demo import MODELS
from aquatint.compiler.numerics import reproducible
from aquatint.compiler.pipeline import Context
from aquatint.compiler.program import Program
from aquatint.compiler.statistics import Calibration
from aquatint.passes.observe import Observe
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.onnx_files import Onnx, opened
from benchmarks.records import markdown, write_record

STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    reproducible()
    checkpoint = open_checkpoint(MODELS / "fashion-unet")
    model = checkpoint.model.eval()
    small = aquatint.optimize(model, "svdq-w4a8-r32", sampler=checkpoint.scheduler)
    learned, unseen = (trajectory(model, checkpoint.scheduler, options.images, seed) for seed in (0, 1000))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole, found_live = small.program, replace(small.program, ranges={})
        common = {name: onnx(p, Path(folder) / name) for name, p in (("all", whole), ("none", found_live))}
        for place, ((image, time), (other, _)) in enumerate(zip(learned, unseen, strict=True)):
            own = onnx(observed(whole, (image, time)), Path(folder) / str(place))
            with torch.no_grad():
                exact = model(other, time).sample
            figures = {name: sqnr(session(other, time).sample, exact) for name, session in (*common.items(), ("own", own))}
            rows.append({"time": int(time[0]), **figures})
    header = ["time step", "one range for all steps", "the step's own range", "found as they come"]
    print(markdown(header, [[str(r["time"]), *(f"{r[name]:.1f} dB" for name in ("all", "own", "none"))] for r in rows]))
    write_record("onnx_step_scales", {"images": options.images, "steps": rows})


def trajectory(model: Any, scheduler: Any, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(images, times) of every step of one sampling run."""
    with Recorder(model, STEPS) as recorder:
        sample(model, scheduler, noise((1, 28, 28), count, seed), SamplingPlan(STEPS))
    return [(e.args[0], e.kwargs["timestep"]) for e in recorder.examples]


def observed(program: Program, call: tuple[Tensor, ...]) -> Program:
    """`program` with the ranges that this one call shows."""
    changed = program.copy()
    Observe(1).run(changed, Context({}, Calibration((call,))))
    return changed


def onnx(program: Program, folder: Path) -> Onnx:
    return Onnx(opened(aquatint.export_onnx(program, folder).path, torch.get_num_threads()))


def sqnr(result: Tensor, exact: Tensor) -> float:
    return float(20 * torch.log10(exact.norm() / (result - exact).norm()))


if __name__ == "__main__":
    main()

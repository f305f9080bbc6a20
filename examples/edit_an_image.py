"""SDEdit (arXiv 2108.01073) with a recorded run: draw an image, paint on it, and compute only what was painted over.

python examples/edit_an_image.py           # edit.png: before, painted, the edit, the whole run, and their difference
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import aquatint
from aquatint.checkpoint import open_checkpoint
from aquatint.quality import psnr
from aquatint.sampling import SamplingPlan, grid, noise, sample

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=Path("edit.png"))
    options = parser.parse_args()
    checkpoint = open_checkpoint(HERE / "models" / "fashion-dit")
    small = aquatint.optimize(checkpoint.model, sampler=checkpoint.scheduler)
    labels = torch.tensor([0, 1, 3, 8])
    drawn = sample(small, checkpoint.scheduler, noise((1, 28, 28), 4, 5), SamplingPlan(options.steps), labels).clamp(-1, 1)

    painted = drawn.clone()
    painted[:, :, 12:17, 10:18] = painted[:, :, 12:17, 10:18] * 0.2 + 0.8  # a light patch
    session = aquatint.edit(small, checkpoint.scheduler, {"class_labels": labels}, steps=options.steps, strength=0.5)
    print(f"a recording takes {session.memory(drawn.shape) / 1e6:.1f} MB")
    before = timed("record", lambda: session.record(drawn, seed=7))
    edited = timed("edit  ", lambda: session.apply(painted))
    report = session.last
    assert report is not None
    print(f"{report.edited:.1%} of the image, {report.multiply_adds / report.dense_multiply_adds:.1%} of the multiply-adds")

    whole = aquatint.edit(small, checkpoint.scheduler, {"class_labels": labels}, steps=options.steps, strength=0.5)
    dense = timed("whole ", lambda: whole.record(painted, seed=7))
    near, far = (psnr(images, dense).mean().item() for images in (edited, before))
    print(f"beside a whole run of what was painted: the edit {near:.1f} dB, the recording {far:.1f} dB")
    rows = [before, painted, edited, dense, (edited - dense).abs() * 4 - 1]
    grid(torch.cat(rows), len(labels), enlarge=4).save(options.output)
    print(f"{options.output}: recorded, painted, edited, a whole run, and four times the difference of these two")


def timed(what: str, run: Callable[[], Tensor]) -> Tensor:
    began = time.perf_counter()
    result = run()
    print(f"{what} {time.perf_counter() - began:.2f} s")
    return result


if __name__ == "__main__":
    main()

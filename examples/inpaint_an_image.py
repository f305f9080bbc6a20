"""Inpainting with a recorded run: cut a hole into an image and draw it again, as often as one likes, computing only the hole.

python examples/inpaint_an_image.py        # inpaint.png: the image, the hole, three drawings into it, the difference
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import aquatint
from aquatint.checkpoint import open_checkpoint
from aquatint.sampling import SamplingPlan, grid, noise, sample

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=Path("inpaint.png"))
    options = parser.parse_args()
    checkpoint = open_checkpoint(HERE / "models" / "fashion-dit")
    small = aquatint.optimize(checkpoint.model, sampler=checkpoint.scheduler)
    labels = torch.tensor([0, 1, 3, 8])
    image = sample(small, checkpoint.scheduler, noise((1, 28, 28), 4, 5), SamplingPlan(options.steps), labels).clamp(-1, 1)

    hole, around = torch.zeros(28, 28, dtype=torch.bool), torch.zeros(28, 28, dtype=torch.bool)
    around[7:17, 11:21] = True
    hole[8:16, 12:20] = True
    colour = image[:, :, around & ~hole].mean(-1).view(-1, 1, 1, 1)  # of what surrounds it
    rows = [image, torch.where(hole, 0.0, image)]
    session = aquatint.edit(small, checkpoint.scheduler, {"class_labels": labels}, steps=options.steps, strength=0.7)
    session.record(image, seed=3)
    for seed in (1, 2, 3):  # what is drawn begins with what the hole is filled with
        filled = torch.where(hole, colour + noise((1, 28, 28), 4, 100 * seed) * 0.5, image)
        drawn = session.apply(filled, hole, commit=False)
        rows.append(torch.where(hole, drawn.clamp(-1, 1), image))
    report = session.last
    assert report is not None
    share = report.multiply_adds / report.dense_multiply_adds
    print(f"{report.edited:.1%} of the image is drawn again with {share:.1%} of the multiply-adds of a whole run")
    rows.append((rows[-1] - image).abs() * 2 - 1)
    grid(torch.cat(rows), len(labels), enlarge=4).save(options.output)
    print(f"{options.output}: the image, the hole, three fillings, and twice the difference of the last one")


if __name__ == "__main__":
    main()

"""A step of a sampling loop, whose text stays, beside one that computes all that follows from the text anew.

    python -m benchmarks.hoisting        # docs/hoisting.md and a dated JSON

Random weights, as speed does not ask for others; W4A8 with rank 32, float32 outside. Both kinds of steps take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import aquatint
from aquatint.compiler.hoist import Held
from aquatint.compiler.module import CompressedModule
from benchmarks.peers.contenders import hasty
from benchmarks.records import markdown, write_record

PAGE = Path(__file__).resolve().parent.parent / "docs" / "hoisting.md"
RECIPE = "svdq-w4a8-r32-whole"
Call = tuple[torch.nn.Module, dict[str, Tensor]]


def stable_diffusion(size: int) -> Call:
    """The U-Net of Stable Diffusion 1.5 with 77 tokens of text."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = {"encoder_hidden_states": torch.randn(1, 77, 768)}
    return model, {"sample": torch.randn(1, 4, size, size), "timestep": torch.tensor([500]), **text}


def pixart(size: int) -> Call:
    """PixArt-alpha with 120 tokens of text."""
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        sample_size=size, norm_type="ada_norm_single", caption_channels=4096, use_additional_conditions=False
    )
    text = {"encoder_hidden_states": torch.randn(1, 120, 4096), "encoder_attention_mask": torch.ones(1, 120)}
    return model, {"hidden_states": torch.randn(1, 4, size, size), "timestep": torch.tensor([500]), **text}


CASES: dict[str, Callable[[], Call]] = {
    "SD 1.5 U-Net, 64 x 64": lambda: stable_diffusion(64),
    "SD 1.5 U-Net, 32 x 32": lambda: stable_diffusion(32),
    "PixArt-alpha, 1024 tokens": lambda: pixart(64),
    "PixArt-alpha, 256 tokens": lambda: pixart(32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {name: measured(case, options.turns) for name, case in CASES.items()}
    path = write_record("hoisting", {"cases": results})
    page = f"""# Hoisting: what follows from the text alone, out of the sampling loop

`python -m benchmarks.hoisting`, raw: `benchmarks/results/{path.name}`. One step in ms, medians and quartiles over
{options.turns} turns, {options.threads} threads: with the text of the step before, and with another one.
*held* is what is kept for a text.

{table(results)}"""
    PAGE.write_text(page)
    print(page)


def measured(case: Callable[[], Call], turns: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, inputs = case()
    small = aquatint.optimize(model.eval(), hasty(aquatint.recipe_named(RECIPE)), calibrate=lambda m: m(**inputs))
    spent: dict[str, list[float]] = {"same": [], "another": []}
    for turn in range(turns + 3):
        another = {**inputs, "encoder_hidden_states": torch.randn_like(inputs["encoder_hidden_states"])}
        for name in ("another", "same"):
            began = time.perf_counter()
            small(**another)
            if turn >= 3:  # behind what is recorded
                spent[name].append(time.perf_counter() - began)
    return {"seconds": spent, "held": held(small)}


def held(small: CompressedModule) -> int:
    """Bytes of the results for one text."""
    (run,) = small._runs
    assert isinstance(run, Held)
    return sum(t.nbytes for t in run._known[0].results)


def table(results: dict[str, Any]) -> str:
    rows = []
    for name, case in results.items():
        same, another = (shown(case["seconds"][kind]) for kind in ("same", "another"))
        ratio = statistics.median(a / s for a, s in zip(*(case["seconds"][kind] for kind in ("another", "same")), strict=True))
        rows.append([name, same, another, f"{100 * (ratio - 1):.1f} %", f"{case['held'] / 1e6:.1f} MB"])
    return markdown(["", "the same text", "another", "more", "held"], rows)


def shown(seconds: list[float]) -> str:
    low, middle, high = (1e3 * s for s in statistics.quantiles(seconds, n=4))
    return f"{middle:.1f} ({low:.1f} - {high:.1f})"


if __name__ == "__main__":
    main()

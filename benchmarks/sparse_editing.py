"""Sparse editing: what an edit of 1.2 to 60 % of an image takes, beside computing all of it, in float32 and in 4 bits.

    python -m benchmarks.sparse_editing    # docs/editing_speed.md and a dated JSON

Of each case one call of the model, the contenders taking turns: torch in float32; the same program by our kernels, whole; edits
in float32; whole and edits in W4A8. Edits are squares; they keep what they read in 8 bits. Where so much is edited that a whole
run is faster, that is what an edit is.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.execution import Execution
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.program import Program
from aquatint.compiler.regions import Regions
from aquatint.compiler.replay import replay_of
from aquatint.compiler.statistics import Calibration
from aquatint.editing import DENSE_ABOVE
from aquatint.passes.sparse import Sparse
from aquatint.runtime import target_named
from benchmarks.peers.cases import sd_unet, shipped
from benchmarks.peers.contenders import hasty
from benchmarks.records import markdown, todays_record, write_record

ROOT = Path(__file__).resolve().parent.parent
KINDS, EDITS = ("fp32", "W4A8"), (1, 3, 10)
EDITED = (0.012, 0.05, 0.15, 0.30, 0.60)
Run = Callable[[], Any]


class Blocks(nn.Module):
    """Two residual blocks of a U-Net between ends of four channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(*ends, 3, padding=1) for ends in ((4, channels), (channels, 4)))
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(4))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i in (0, 2):
            inner = self.convolutions[i](nn.functional.silu(self.norms[i](x)))
            x = x + self.convolutions[i + 1](nn.functional.silu(self.norms[i + 1](inner)))
        return self.last(x)


def blocks(channels: int, size: int, seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    module = Blocks(channels).eval()
    torch.manual_seed(seed)
    return module, (torch.randn(1, 4, size, size),)


def kl_decoder(seed: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """The decoder of Stable Diffusion's autoencoder, 64 x 64 latents to 512 x 512 pixels, with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    whole: Any = AutoencoderKL(**settings)
    torch.manual_seed(seed)
    return whole.decoder.eval(), (torch.randn(1, 4, 64, 64),)


@dataclass(frozen=True)
class Case:
    """margin: places computed around an edit; turns: fewer for what takes seconds."""

    name: str
    build: Callable[[int], tuple[nn.Module, tuple[Any, ...]]]
    margin: int = 1
    turns: int = 7


CASES = (
    Case("2 residual blocks, 320 at 64 x 64", partial(blocks, 320, 64), margin=0),
    Case("2 residual blocks, 640 at 32 x 32", partial(blocks, 640, 32), margin=0),
    Case("fashion-unet", partial(shipped, "fashion-unet")),
    Case("fashion-dit", partial(shipped, "fashion-dit")),
    Case("KL decoder, 512 x 512", kl_decoder, turns=3),
    Case("SD 1.5 U-Net, 64 x 64", sd_unet, turns=3),
)


def square(grid: tuple[int, ...], part: float) -> Tensor:
    """A mask of a square in the middle that is `part` of an image."""
    mask = torch.zeros(grid, dtype=torch.bool)
    sides = [max(1, round(size * part**0.5)) for size in grid]
    mask[tuple(slice((size - side) // 2, (size + side) // 2) for size, side in zip(grid, sides, strict=True))] = True
    return mask


def compressed(model: nn.Module, inputs: tuple[Any, ...]) -> CompressedModule:
    return aquatint.optimize(model, hasty(aquatint.recipe_named("svdq-w4a8-r32")), calibrate=lambda m: m(*inputs))


def edits(program: Program, inputs: list[Tensor], whole: Run, margin: int) -> dict[float, tuple[Run, dict[str, Any]]]:
    """For each part of the image an edit, and what is known of it; part 0 is a recording."""
    changed, _ = run_pass(program, Sparse("int8"), Context({}, Calibration((tuple(inputs),))))
    entries, lower = changed.incremental, target_named("cpu").lower
    assert entries is not None
    results = len(program.graph.output_node().args[0])  # type: ignore[arg-type]
    record = replay_of(Execution(entries.record, program.weights, lower), inputs)
    recorded = record(*inputs)[results:]
    execution = Execution(entries.edit, program.weights, lower)
    dense = sum({w.node: w.dense for w in entries.work}.values())
    found: dict[float, tuple[Run, dict[str, Any]]] = {0.0: (partial(record, *inputs), {})}
    for part in EDITED:
        regions = Regions(square(entries.grid, part), margin)
        done = sum(w.each * (regions.count(w.region) + w.more) for w in entries.work)
        given = [*inputs, *map(regions.index, entries.indices), *recorded]
        facts = {"multiply-adds": done / dense, "kept MB": sum(k.nbytes() for k in entries.kept) / 1e6}
        run = whole if done > DENSE_ABOVE * dense else partial(replay_of(execution, given), *given)
        found[part] = run, facts
    return found


def measure(case: Case) -> dict[str, Any]:
    """Medians, spreads, and ratios to what computes everything."""
    model, given = case.build(0)
    with torch.no_grad():
        program = capture(model, Example(given), case.name)
        inputs = program.interface.flatten(given, {})[0]
        small = compressed(model, given)
        executions = (Execution(p.graph, p.weights, small.target.lower) for p in (program, small.program))
        names = ("aquatint fp32", "aquatint W4A8")
        wholes: dict[str, Run] = {n: partial(replay_of(e, inputs), *inputs) for n, e in zip(names, executions, strict=True)}
        runs: dict[str, Run] = {"torch fp32": lambda: model(*given), **wholes}
        facts: dict[str, Any] = {}
        for name, of in (("aquatint fp32", program), ("aquatint W4A8", small.program)):
            for part, (run, known) in edits(of, inputs, wholes[name], case.margin).items():
                label = f"{name}, {part:.1%}" if part else f"{name}, record"
                runs[label], facts[label] = run, known
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(case.turns):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        name: {"ms": m * 1e3, "spread": (max(seconds[name]) - min(seconds[name])) / m,
               "x torch": medians["torch fp32"] / m, "x whole": medians[name.split(",")[0]] / m, **facts.get(name, {})}
        for name, m in medians.items()
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """A row for each case, and for each size of edit."""
    rows: list[list[str]] = []
    for case, found in results.items():
        ms = {name: one["ms"] for name, one in found.items()}
        wholes = [f"{ms[f'aquatint {kind}']:.1f} ({ms[f'aquatint {kind}, record']:.1f})" for kind in KINDS]
        rows.append([f"**{case}**", f"{ms['torch fp32']:.1f}", wholes[0], "", "", wholes[1], "", "", "", ""])
        for part in EDITED:
            columns = [f"{part:.1%}", ""]
            for kind in KINDS:
                one = found[f"aquatint {kind}, {part:.1%}"]
                whole, record = ms[f"aquatint {kind}"], ms[f"aquatint {kind}, record"]
                shared = [f"{count * whole / (record + count * one['ms']):.1f}" for count in EDITS]
                columns += [f"{one['ms']:.1f}", f"{one['x torch']:.1f} / {one['x whole']:.1f}", " / ".join(shared)]
            plain = found[f"aquatint fp32, {part:.1%}"]
            rows.append([*columns, f"{plain['multiply-adds']:.3f}", f"{plain['kept MB']:.1f}"])
    each = [h for kind in KINDS for h in (f"{kind}, ms (recording)", "x torch / whole", "recorded for 1 / 3 / 10")]
    return markdown(["edited", "torch fp32, ms", *each, "multiply-adds", "kept MB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default="", help="names, or parts of names, with commas between them")
    parser.add_argument("--add", action="store_true", help="to what was measured today, rather than instead of it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = [c for c in CASES if any(part in c.name for part in options.cases.split(","))]
    results: dict[str, Any] = {}
    for case in wanted:
        results[case.name] = measure(case)
        print(table({case.name: results[case.name]}), flush=True)
    known = (todays_record("sparse_editing") or {}).get("cases", {}) if options.add else {}
    results = {c.name: {**known, **results}[c.name] for c in CASES if c.name in {**known, **results}}
    path = write_record("sparse_editing", {"threads": options.threads, "cases": results})
    command = f"python -m benchmarks.sparse_editing {shlex.join(sys.argv[1:])}".strip()
    from aquatint.commands.bench import processor

    head = f"""# Sparse editing: time of one call

`{command}` on {processor()}, {options.threads} threads; raw: `benchmarks/results/{path.name}`.
Contenders take turns; "whole" is our own run of everything in the same numbers, "recorded for 1 / 3 / 10" the gain over it when
so many edits share a recording. Multiply-adds are those of the float32 program, as a part of all. What is kept is for one call,
in 8 bits. Where what must be computed comes near to all of the image, an edit is a whole run. The peer `sige` can't be built:
its setup imports a name that torch no longer has (`build_ext` of `torch.utils.cpp_extension`).

"""
    (ROOT / "docs" / "editing_speed.md").write_text(head + table(results))


if __name__ == "__main__":
    main()

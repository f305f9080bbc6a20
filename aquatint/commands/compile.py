"""Compress a checkpoint: a diffusers folder, a pipeline folder, or one safetensors file with its config."""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the artifact folder to write, e.g. out.aq")
    parser.add_argument("--recipe", default="svdq-w4a8-r32-whole", help="a preset's name (default: %(default)s)")
    parser.add_argument("--keep", action="append", default=[], metavar="GLOB", help="leave these sites as they are")
    parser.add_argument("--config", type=Path, help="config.json of a single safetensors file")
    parser.add_argument("--calls", type=int, default=16, help="how many calls to learn from (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fastest", action="store_true", help="leave sites as they are that compression makes slower here")


def run(options: argparse.Namespace) -> None:
    from aquatint.checkpoint import open_checkpoint
    from aquatint.commands.terminal import console, progress_bar
    from aquatint.compiler.numerics import reproducible
    from aquatint.compiler.recipe import Rule
    from aquatint.compiler.report import megabytes
    from aquatint.compression import optimize
    from aquatint.passes.recipes import recipe_named

    reproducible()
    recipe = recipe_named(options.recipe).with_rules(*(Rule(glob, None, "kept by --keep") for glob in options.keep))
    checkpoint = open_checkpoint(options.model, options.config)
    began = time.perf_counter()
    with progress_bar() as progress:
        small = optimize(
            checkpoint.model, recipe, sampler=checkpoint.scheduler, calls=options.calls, seed=options.seed,
            fastest=options.fastest, progress=progress,
        )  # fmt: skip
    small.save(options.output)
    sizes = small.report["bytes"]
    treated = sum(1 for row in small.report["sites"] if row["treatment"])
    console.print(
        f"{options.output}: {megabytes(sizes['before'])} -> {megabytes(sizes['after'])} "
        f"({sizes['before'] / sizes['after']:.2f}x smaller), {treated} of {len(small.report['sites'])} sites, "
        f"{time.perf_counter() - began:.1f} s. See {options.output}/report.html",
        markup=False,
    )

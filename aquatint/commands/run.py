"""Draw images with an artifact, from seeds, by the sampler that it was compiled for."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("samples.png"), help="default: %(default)s")
    parser.add_argument("--target", default="cpu", help="cpu, cuda or reference (default: %(default)s)")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, help="default: those that a student was trained for, or 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guidance", type=float, help="of models with classes (default: 2, or 1 for a student that has learned it)"
    )
    parser.add_argument("--label", type=int, help="one class for all images; default: each in turn")
    parser.add_argument("--inputs", type=Path, help="safetensors with what else the model wants, e.g. encoder_hidden_states")


def run(options: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from aquatint.commands.terminal import console
    from aquatint.compiler.errors import InputError
    from aquatint.compression import load
    from aquatint.sampling import SamplingPlan, grid, noise, null_label, sample, scheduler_from

    model = load(options.artifact, options.target)
    extra = load_file(options.inputs) if options.inputs else {}
    wanted = {spec.path for spec in model.program.interface.inputs}
    if missing := wanted - {"sample", "hidden_states", "timestep", "class_labels"} - set(extra):
        raise InputError(f"{model.program.name} needs {', '.join(sorted(missing))}: give them in --inputs FILE.safetensors")
    classes = model.config.get("num_embeds_ada_norm") or model.config.get("num_class_embeds")
    labels = None
    if "class_labels" in wanted:
        given = torch.arange(options.count) % (classes or 1)
        labels = given if options.label is None else torch.full_like(given, options.label)
    size = model.config.get("sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    start = noise((model.config.get("in_channels"), height, width), options.count, options.seed)
    sampler = model.program.sampler or {}
    nothing = null_label(model.program.config) if labels is not None else None
    if nothing is None and options.guidance not in (None, 1.0):
        raise InputError(
            f"{model.program.name} has no label for none, away from which a guidance of {options.guidance:g} leads"
        )
    usual = 1.0 if nothing is None or "guidance" in sampler else 2.0
    plan = SamplingPlan.of(sampler, options.steps, usual if options.guidance is None else options.guidance, options.seed)
    images = sample(model, scheduler_from(sampler), start, plan, labels, nothing, extra)
    if options.output.suffix == ".safetensors":
        save_file({"images": images.contiguous()}, options.output)
    else:
        grid(images, columns=min(8, options.count)).save(options.output)
    console.print(f"{options.output}: {options.count} images, {plan.steps} steps, seed {options.seed}", markup=False)

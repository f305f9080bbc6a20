"""Train a student of a checkpoint that draws in few steps; what was trained is kept, and a run that was stopped goes on.

With --base the low-rank branch of a compressed model learns alone, from the checkpoint that it was made of.

torchrun --nproc-per-node 2 -m aquatint distill ... trains with several processes: --batch is that of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the artifact folder to write, e.g. student.aq; with --base a name in .safetensors is a speed pack",
    )
    parser.add_argument("--steps", type=int, default=4, help="that the student draws in (default: %(default)s)")
    parser.add_argument("--method", default="sfd", help="sfd, or schedule, which trains nothing (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-4, help="of Adam, falling to zero (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="stop training after so long")
    parser.add_argument("--train", default="all", choices=("all", "lora"), help="lora: adapters alone (default: %(default)s)")
    parser.add_argument("--base", type=Path, metavar="ARTIFACT", help="train its branch alone; a rate of 1e-3 suits it")
    parser.add_argument("--by-step", action="store_true", help="with --base: a branch for each step")
    parser.add_argument("--teacher", metavar="RECIPE", help="run the teacher by compiled kernels, e.g. w8a8: faster")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of products in training")
    parser.add_argument("--device", default="cpu", help="where to train, e.g. cuda (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="that the student learns, of a model with classes")
    parser.add_argument("--checkpoints", type=Path, help="where they go (default: beside the output)")
    parser.add_argument("--config", type=Path, help="config.json of a single safetensors file")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> None:
    import torch.distributed as dist

    from aquatint.checkpoint import CheckpointError, open_checkpoint
    from aquatint.commands.terminal import console, progress_bar
    from aquatint.compiler.company import Company
    from aquatint.compiler.errors import DistillError
    from aquatint.compiler.module import CompressedModule
    from aquatint.compiler.training import Schooling
    from aquatint.compression import load, optimize
    from aquatint.distillation import distill

    is_pack = options.output.suffix == ".safetensors"
    if options.base is None and (is_pack or options.by_step):
        raise DistillError("a speed pack and branches by step are over a compressed model: give it with --base")
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    company = Company.here()
    checkpoint = open_checkpoint(options.model, options.config)
    if checkpoint.scheduler is None:
        raise CheckpointError(f"no scheduler lies beside {options.model}: its configuration says what the model predicts")
    place = options.checkpoints or options.output.with_suffix(".training")
    with progress_bar() as progress:

        def watch(iteration: int, loss: float, left: float) -> None:
            if company.rank == 0:
                progress(f"{options.method}: loss {loss:.4f}, {left:.0f} s left", iteration, options.iterations)

        base: CompressedModule | None = load(options.base) if options.base else None
        teacher = checkpoint.model if base else None
        if options.teacher:
            teacher = optimize(checkpoint.model, options.teacher, sampler=checkpoint.scheduler, seed=options.seed)
        student = distill(
            base or checkpoint.model, checkpoint.scheduler, options.method, options.steps, batch=options.batch, folder=place,
            schooling=Schooling(options.iterations, options.seconds, options.rate, precision=options.precision),
            train="branch" if base else options.train, by_step=options.by_step, teacher=teacher, guidance=options.guidance,
            device=options.device, seed=options.seed, watch=watch,
        )  # fmt: skip
    if company.size > 1:
        dist.destroy_process_group()
    if company.rank:
        return
    (student.save_pack if is_pack else student.save)(options.output)
    console.print(f"{options.output}: {student.report['distillation']['comparison']}", markup=False)

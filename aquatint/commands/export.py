"""Write an artifact as ONNX, for an unmodified onnxruntime: DIR/COMPONENT/model.onnx with its config, and the scheduler.

For the target `plate` it is one file instead, which runs at fixed sizes on this CPU and on those that have the same
instructions, with numpy and without torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aquatint.commands.sizes import add_argument, sizes_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder, or the plate, to write")
    parser.add_argument(
        "--target", default="ort-cpu", choices=["ort-cpu", "plate"], help="whom it is for (default: %(default)s)"
    )
    parser.add_argument("--weights", help="of ONNX: w4-fold, w4-nbits, w8a8 or fp32 (default: w4-fold)")
    parser.add_argument("--scales", help="of ONNX: tensor, or row: nearer and slower (default: tensor)")
    add_argument(parser, "of a plate: a free size, e.g. batch=1 (default: as the model was captured)")
    parser.add_argument("--kernels", help="of a plate: avx2, avx512, avx512-vnni or avx512-amx (default: the best here)")


def run(options: argparse.Namespace) -> None:
    import math
    import time

    from aquatint.commands.terminal import console
    from aquatint.compiler.errors import InputError
    from aquatint.compiler.report import megabytes
    from aquatint.compression import load
    from aquatint.export import Exported, export_onnx
    from aquatint.plates import Plated, export_plate

    plate = options.target == "plate"
    others = ["weights", "scales"] if plate else ["size", "kernels"]
    if strange := [f"--{name}" for name in others if getattr(options, name)]:
        raise InputError(f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} not for the target {options.target}")
    began = time.perf_counter()
    model, sizes = load(options.artifact, "reference"), sizes_of(options.size)
    made: Exported | Plated
    if plate:
        made = export_plate(model, options.output, sizes=sizes, kernels=options.kernels)
        kind = f"for {made.kernels}, " + (
            "the bits of the module" if math.isinf(made.sqnr) else f"{made.sqnr:.0f} dB SQNR to the module"
        )
    else:
        kind, scales = options.weights or "w4-fold", options.scales or "tensor"
        made = export_onnx(model, options.output, weights=kind, scales=scales)
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in made.inputs.items())
    took = time.perf_counter() - began
    console.print(f"{made.path}: {megabytes(made.nbytes)}, {kind}, {took:.1f} s\n  {inputs}", markup=False)

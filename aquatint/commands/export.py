"""Write an artifact as ONNX, for an unmodified onnxruntime: DIR/COMPONENT/model.onnx with its config, and the scheduler."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--target", default="ort-cpu", choices=["ort-cpu"], help="whom it is for (default: %(default)s)")
    parser.add_argument("--weights", default="w4-fold", help="w4-fold, w4-nbits, w8a8 or fp32 (default: %(default)s)")
    parser.add_argument("--scales", default="tensor", help="tensor, or row: nearer and slower (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    import time

    from aquatint.commands.terminal import console
    from aquatint.compiler.report import megabytes
    from aquatint.compression import load
    from aquatint.export import export_onnx

    began = time.perf_counter()
    model = load(options.artifact, "reference")
    made = export_onnx(model, options.output, weights=options.weights, scales=options.scales)
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in made.inputs.items())
    took = time.perf_counter() - began
    console.print(f"{made.path}: {megabytes(made.nbytes)}, {options.weights}, {took:.1f} s\n  {inputs}", markup=False)

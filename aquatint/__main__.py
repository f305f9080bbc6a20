"""The command line: python -m aquatint compile | distill | inspect | run | export | lint | bench | demo."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings

COMMANDS = {
    "compile": "compress a checkpoint into an artifact",
    "distill": "train a student that draws in few steps",
    "inspect": "show an artifact: its program, its sites, and why each was treated as it was",
    "run": "draw images with an artifact",
    "export": "write an artifact as ONNX for an unmodified onnxruntime, or as a plate, which needs no torch",
    "lint": "name what makes an ONNX file slow on this CPU",
    "bench": "time an artifact, beside the model that it was made from",
    "demo": "compress the two models of this repository and show what it does to them",
}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where `lint` found something; 2 for a fault that is explained."""
    parser = argparse.ArgumentParser(prog="aquatint", description="A compression compiler for diffusion models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, summary in COMMANDS.items():
        modules[name] = importlib.import_module(f"aquatint.commands.{name}")
        modules[name].add_arguments(subparsers.add_parser(name, help=summary, description=modules[name].__doc__))
    options = parser.parse_args(arguments)
    from aquatint.compiler.errors import AquatintError

    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return modules[options.command].run(options) or 0
    except AquatintError as error:
        print(f"aquatint {options.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""What compressing makes of diffusers' other models: which go through, how near they stay, which sizes stay free.

    python -m benchmarks.architectures                    # docs/architectures.md and a dated JSON
    python -m benchmarks.architectures --only flux,wan    # those whose names have one of these parts; prints alone

Random weights at a tiny size. Each runs in a process of its own, which may take two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import AquatintError
from aquatint.compiler.interface import describe
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.program import Program
from aquatint.runtime import target_named
from benchmarks.diffusers_calls import Call, Tiny
from benchmarks.diffusers_models import IMAGES
from benchmarks.diffusers_videos import VIDEOS
from benchmarks.records import markdown, write_record

ROOT = Path(__file__).resolve().parent.parent
MODELS = IMAGES | VIDEOS
RECIPE = "svdq-w4a8-r32"
SECONDS = 120
FAR = 0.35  # of the output: an error of 4 bits that is called wrong
EXACT = 1e-3  # what the captured program may differ by, uncompressed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, by commas")
    parser.add_argument("--here", help=argparse.SUPPRESS)  # one model, in this process
    options = parser.parse_args()
    if options.here:
        print(json.dumps(checked(options.here)))
        return
    parts = options.only.lower().split(",")
    chosen = [name for name in MODELS if any(part in name.lower() for part in parts)]
    if not chosen:
        parser.error(f"no model has {options.only} in its name; they are {'; '.join(MODELS)}")
    results = {name: apart(name) for name in chosen}
    if not options.only:
        report(results)
    print(tables(results))


def apart(name: str) -> dict[str, Any]:
    """The checks in a process of their own, as a model may end it or take too long."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.architectures", "--here", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        found: dict[str, Any] = {"wrong": [f"it was not done after {SECONDS} s"]}
    else:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        found = {"wrong": [last]} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    print(name, found, flush=True)
    return found


def checked(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    tiny = MODELS[name]()
    tiny.model.eval()
    for parameter in tiny.model.parameters():  # a zero weight would hide all that is before it
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    call = tiny.call(2, tiny.sizes[0])
    plain(tiny, call)  # what the model itself refuses is a fault of this benchmark, and no refusal
    try:
        small = aquatint.optimize(tiny.model, RECIPE, calibrate=lambda m: m(*call[0], **call[1]))
        program = capture(tiny.model, Example(*call))
    except AquatintError as error:
        return {"refused": sentence(error)}
    sites = [bool(row["treatment"]) for row in small.report["sites"]]
    wrong: list[str] = []
    return {
        "sites": [sum(sites), len(sites)],
        "error": first_call(tiny, small, call, wrong),
        "batches": others(tiny, small, program, [(batch, tiny.sizes[0]) for batch in (1, 3)], wrong),
        "sizes": others(tiny, small, program, [(2, size) for size in tiny.sizes[1:]], wrong),
        "wrong": wrong,
    }


def plain(tiny: Tiny, call: Call) -> Any:
    with torch.no_grad():
        return tiny.model(*call[0], **call[1])


def first_call(tiny: Tiny, small: CompressedModule, call: Call, wrong: list[str]) -> float:
    """The error of the call that was captured; the third is a replay."""
    expected = plain(tiny, call)
    outputs = [small(*call[0], **call[1]) for _ in range(3)]
    if type(outputs[0]) is not type(expected):
        wrong.append(f"it returns a {type(outputs[0]).__name__}, not a {type(expected).__name__}")
    if not all(torch.equal(a, b) for again in outputs[1:] for a, b in zip(tensors(again), tensors(outputs[0]), strict=True)):
        wrong.append("equal calls give other bits")
    if missing := sorted(set(small.without_kernel())):
        wrong.append(f"without a kernel: {', '.join(missing)}")
    error = apart_by(outputs[2], expected)
    if not error < FAR:
        meaning = apart_by(small.on(target_named("reference"))(*call[0], **call[1]), expected)
        finer = aquatint.optimize(tiny.model, "w8a16", calibrate=lambda m: m(*call[0], **call[1]))
        eight = apart_by(finer(*call[0], **call[1]), expected)  # tells a wrong program from a model that 4 bits are too few for
        wrong.append(f"error {error:.3f}, by the operators' meaning {meaning:.3f}, in recipe w8a16 {eight:.3f}")
    return error


def others(tiny: Tiny, small: CompressedModule, program: Program, cases: list[tuple[int, Any]], wrong: list[str]) -> str:
    """Are these batches or sizes free, or fixed by the program, which says so? What is neither is added to `wrong`."""
    answer = "free" if cases else "-"
    for batch, size in cases:
        call = tiny.call(batch, size)
        expected = plain(tiny, call)
        try:
            error = apart_by(small(*call[0], **call[1]), expected)
            exact = apart_by(program(*program.interface.flatten(*call)[0]), tensors(expected))
        except AquatintError:
            answer = "fixed" if answer == "free" else answer
        except Exception as fault:
            wrong.append(f"batch {batch}, size {size}: {type(fault).__name__}: {sentence(fault)}")
            answer = "wrong"
        else:
            if not (error < FAR and exact < EXACT):
                wrong.append(f"batch {batch}, size {size}: error {error:.3f}, before compression {exact:.1e}")
                answer = "wrong"
    return answer


def tensors(output: Any) -> list[Tensor]:
    found: list[Tensor] = []
    describe(output, found)
    return found


def apart_by(output: Any, expected: Any) -> float:
    """The largest relative error of an output's tensors; NaN where one is."""
    pairs = list(zip(tensors(output), tensors(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return torch.stack([(a - b).float().norm() / b.float().norm() for a, b in pairs]).max().item()


def sentence(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no word")


def report(results: dict[str, Any]) -> None:
    path = write_record("architectures", {"recipe": RECIPE, "diffusers": diffusers.__version__, "models": results})
    counts = {kind: sum(bool(r.get(kind)) for r in results.values()) for kind in ("refused", "wrong")}
    head = f"""# Architectures: what compressing makes of diffusers' other models

`python -m benchmarks.architectures`, raw: `benchmarks/results/{path.name}`. Classes of diffusers {diffusers.__version__} that
`tests/zoo.py` does not have, and other forms of those it has, in W4A8 (recipe {RECIPE}) on the CPU: {len(results)} models,
of which refused with a reason: {counts["refused"]}, wrong: {counts["wrong"]}. The weights are random and the sizes tiny, so an
error says that the program is right, not how good a trained model would look.

*Error* is of the output, relative to the model's own. *Batches* are calls with 1 and 3 samples of what was compressed with 2;
*sizes* those with another height, width or length. *Free*: they come out near the model, and within {EXACT:g} of it where
nothing is compressed. *Fixed*: at least one of them ends in an error that says so. A dash: none was tried. *Wrong*: an error
above {FAR}, or anything else that should not be and that no error speaks of. Where such an error is none before compression
and small in recipe w8a16, the program is right, and 4 bits are too few for these random weights.

"""
    (ROOT / "docs" / "architectures.md").write_text(head + tables(results))


def tables(results: dict[str, Any]) -> str:
    """Those that went through in a table, and a list each for the others and for all that is wrong."""
    rows = [row(name, found) for name, found in results.items() if "sites" in found]
    refused = [f"- {name}: {found['refused']}\n" for name, found in results.items() if "refused" in found]
    wrong = [f"- {name}: {'; '.join(found['wrong'])}\n" for name, found in results.items() if found.get("wrong")]
    text = markdown(["class", "sites compressed", "error", "batches", "sizes"], rows)
    for title, lines in (("Refused", refused), ("Wrong", wrong)):
        text += f"\n## {title}\n\n{''.join(lines)}" if lines else ""
    return text


def row(name: str, found: dict[str, Any]) -> list[str]:
    compressed, sites = found["sites"]
    name += " (wrong)" if found["wrong"] else ""
    return [name, f"{compressed} / {sites}", f"{found['error']:.3f}", found["batches"], found["sizes"]]


if __name__ == "__main__":
    main()

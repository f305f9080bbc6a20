"""What a recording of 20 steps keeps, in float32, int8 and int4: bytes, and the error of what is read back.

python -m benchmarks.edit_memory      # docs/edit_memory.md and a dated JSON
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.execution import Execution
from aquatint.compiler.formats import format_named
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.program import Program
from aquatint.compiler.statistics import Calibration
from aquatint.passes.sparse import Sparse
from aquatint.runtime import target_named
from benchmarks.records import markdown, write_record
from benchmarks.sparse_editing import CASES, Case

CACHES = ("float32", "int8", "int4-g64")
STEPS = 20
NOTE = """Of 20 steps, and of one call of the decoder and of the blocks. Beside float32: the part of its bytes, and the
signal-to-noise ratio of what is read back from one call. Of 4 bits with a scale for 64 that part is 0.133 at best; results stay
as they are, and what follows from a text alone is kept once. With 4 bits, modulations are computed again instead."""


def measured(case: Case) -> dict[str, Any]:
    """Bytes by cache, and the signal-to-noise ratio in dB of all rows that are kept."""
    model, args = case.build(1)
    program = capture(model, Example(args), case.name)
    inputs, _ = program.interface.flatten(args, {})
    module = CompressedModule(program, target_named("cpu"), {}, {})
    given = dict(zip((spec.path for spec in program.interface.inputs), inputs, strict=True))
    image = given.pop(program.interface.inputs[0].path)
    sampler = None if given.pop("timestep", None) is None else DDIMScheduler()
    found: dict[str, Any] = {}
    for cache in CACHES:
        session = aquatint.edit(module, sampler, given, steps=STEPS, strength=1.0, cache=cache)
        found[cache] = {"bytes": session.memory(image.shape)}
    rows = recorded(program, inputs)
    for cache in CACHES[1:]:
        number = format_named(cache)
        noise = sum((number.roundtrip(v) - v).double().square().sum().item() for v in rows)
        found[cache]["dB"] = 10 * math.log10(sum(v.double().square().sum().item() for v in rows) / noise)
    return found


def recorded(program: Program, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """All rows that are kept of one call, in float32."""
    changed, _ = run_pass(program, Sparse("float32"), Context({}, Calibration((tuple(inputs),))))
    assert changed.incremental is not None
    with torch.no_grad():
        results = Execution(changed.incremental.record, changed.weights, target_named("cpu").lower)(*inputs)
    values = results[len(program.graph.output_node().args[0]) :]  # type: ignore[arg-type]
    return [v for v in values if v.dim() == 3 and v.shape[-1] % 64 == 0]


def table(results: dict[str, Any]) -> str:
    rows = []
    for name, found in results.items():
        plain = found["float32"]["bytes"]
        cells = [
            f"{found[c]['bytes'] / 1e6:.1f} MB, {found[c]['bytes'] / plain:.3f}, {found[c]['dB']:.1f} dB" for c in CACHES[1:]
        ]
        rows.append([name, f"{plain / 1e6:.1f} MB", *cells])
    return markdown(["kept", *CACHES], rows)


def main() -> None:
    results = {case.name: measured(case) for case in CASES}
    print(table(results))
    path = write_record("edit_memory", {"cases": results})
    head = f"# What a recording keeps\n\n`python -m benchmarks.edit_memory`, {path.name}. {NOTE}\n\n"
    (Path(__file__).resolve().parent.parent / "docs" / "edit_memory.md").write_text(head + table(results))


if __name__ == "__main__":
    main()

"""A step of a model run by PyTorch beside the same model as a plate, in which there is no PyTorch, taking turns.

    python -m benchmarks.plates       # docs/plates.md and a dated JSON

Both are loaded from files by processes of their own, and wait while the other has its turn; the plate's threads are the native
library's own. Figures are medians over the turns, with quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.cpu_peers import Worker, cpu
from benchmarks.records import markdown, write_record

ROOT = Path(__file__).resolve().parent.parent
CASES = ("fashion-dit", "fashion-unet", "DiT-XL/2, 4 blocks, 256 tokens", "DiT-XL/2, 4 blocks, 1024 tokens")
MODULE, PLATE = "aquatint W4A8 r32", "aquatint W4A8 r32, as a plate"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="parts of names, by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    cases = [c for c in CASES if any(part in c for part in options.cases.split(","))]
    results = {case: measure(case, options.threads, options.turns) for case in cases}
    path = write_record("plates", {"threads": options.threads, "turns": options.turns, "cases": results})
    text = f"""# A plate's speed beside its module's

`python -m benchmarks.plates` on {cpu()}, {options.threads} threads; raw:
`benchmarks/results/{path.name}`. ms a call, medians over turns with quartiles: *module* is run by PyTorch, in a *plate* there
is none ([what a plate is](plate.md)).

{table(results)}"""
    (ROOT / "docs" / "plates.md").write_text(text)
    print(table(results))


def measure(case: str, threads: int, turns: int) -> dict[str, list[float]]:
    """Milliseconds of every call, by name."""
    with ExitStack() as stack:
        workers = []
        for name in (MODULE, PLATE):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.stored"]
            subprocess.run([*command, "store", name, case, folder], cwd=ROOT, check=True)
            command += ["serve", name, folder, str(threads)]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(process.kill)
            workers.append(Worker(name, process))
        for worker in workers:
            worker.about = worker.answer()
        for _ in range(turns):
            for worker in workers:
                worker.seconds += worker.ask(2)["seconds"]
                time.sleep(0.02)  # until its threads sleep
    found = {w.name: [1e3 * s for s in w.seconds] for w in workers}
    print(case, {name: round(statistics.median(ms), 2) for name, ms in found.items()}, flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    lines = []
    for case, found in results.items():
        module, plate = (found[name] for name in (MODULE, PLATE))
        ratio = statistics.median(module) / statistics.median(plate)
        lines.append([case, spread(module), spread(plate), f"{ratio:.2f}"])
    return markdown(["", "module", "plate", "module / plate"], lines)


def spread(ms: list[float]) -> str:
    low, middle, high = statistics.quantiles(ms, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()

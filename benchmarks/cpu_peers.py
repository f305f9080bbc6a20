"""Our CPU engine beside every other way to run a model on this CPU, in one run.

    make peers                               # each peer into its own environment under build/peers
    python -m benchmarks.cpu_peers           # docs/cpu_peers.md, docs/cpu_peers.png and a dated JSON
    python -m benchmarks.cpu_peers --cases linear --threads 1     # a page and a JSON of its own

All contenders of a case are loaded and take turns, so that a noisy moment hits them all; figures are medians over the turns
with quartiles, and ratios to torch fp32. A peer that is not installed, or that refuses a case, is reported with its reason.
`MB prepared` is the process's resident memory with all that it loaded to export, compile or compress the model: it says what
preparing takes, not what running takes. `bare integer loop` (vpdpbusd), `bare FMA loop` and `bare tile loop` (AMX) do the
case's multiply-adds on registers alone: the machine's ceiling at that moment. A processor with AMX has a page of its own.
Of ours `unfused` is without the pass `fuse`, `r0` without a branch, `apart` encodes what a product gives in a run of its own.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import CASES, Case
from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.records import markdown, todays_record, write_record

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2
BASE, CEILINGS = "torch fp32", ("bare integer loop", "bare FMA loop", "bare tile loop")
VARIANTS = ("aquatint W4A8 r32, unfused", "aquatint W4A8 r0", "aquatint W4A8 r0, whole")  # shown on single sites
APART = "aquatint W4A8 r32, whole, apart"  # shown where products follow each other


@dataclass
class Worker:
    """A contender's process, if it could be started; `about` is its first answer, `seconds` what it measured."""

    name: str
    process: subprocess.Popen[str] | None
    about: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def answer(self) -> dict[str, Any]:
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended"}

    def ask(self, calls: int) -> dict[str, Any]:
        assert self.process
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{calls}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"missing": "its process ended, as it does for want of memory"}
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only cases whose name holds one of these, by commas")
    parser.add_argument("--contenders", default="", help="only contenders whose name holds one of these, by commas")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--no-page", action="store_true", help="print the tables and write nothing")
    parser.add_argument("--add", action="store_true", help="keep in the page what today's record holds of other cases")
    options = parser.parse_args()
    wanted = [c for c in CONTENDERS.values() if _named(c.name, options.contenders)]
    results = {c.name: measure(c, wanted, options) for c in CASES.values() if _named(c.name, options.cases)}
    print(tables(results))
    if options.no_page:
        return
    from benchmarks.peers.plot import plot

    name = page_name("cpu_peers", options.threads)
    commands = [f"python -m benchmarks.cpu_peers {shlex.join(sys.argv[1:])}".strip()]
    if options.add and (earlier := todays_record(name)):
        results = {**{c: earlier["cases"][c] for c in CASES if c in earlier["cases"]}, **results}
        commands = list(dict.fromkeys([*earlier["commands"], *commands]))
    found = {"threads": options.threads, "turns": options.turns, "commands": commands, "cases": results}
    path = write_record(name, found)
    lines = "\n".join(f"    {command}" for command in commands)
    head = f"""# CPU: aquatint beside its peers

{lines}

On {cpu()}, {options.threads} thread{"s" * (options.threads > 1)}; within a case all take turns; raw:
`benchmarks/results/{path.name}`. *MB prepared* is the resident memory of a process with all that it loaded to export, compile
or compress the model: it says what preparing takes, not what running takes.

![ratios to torch fp32]({name}.png)

"""
    (ROOT / "docs" / f"{name}.md").write_text(head + tables(results))
    plot(results, ROOT / "docs" / f"{name}.png")


def page_name(benchmark: str, threads: int) -> str:
    """A processor with AMX has a page of its own, and so has another number of threads."""
    from aquatint.runtime.cpu.native import best_kernel_set

    kernels = best_kernel_set()
    name = f"{benchmark}_amx" if kernels and kernels.tiles else benchmark
    return name if threads == THREADS else f"{name}_on_{threads}"


def _named(name: str, parts: str) -> bool:
    return any(part in name for part in parts.split(","))


def cpu() -> str:
    from aquatint.commands.bench import processor

    return processor()


def measure(case: Case, wanted: list[Contender], options: argparse.Namespace) -> dict[str, Any]:
    """Start every contender, let them take turns, and stop them."""
    hidden = {*(() if case.macs else CEILINGS), *((APART,) if case.single else VARIANTS)}
    chosen = [c for c in wanted if (not case.only or c.name in case.only) and c.name not in hidden]
    workers = [started(c, case, options.threads) for c in chosen]
    try:
        ready = [w for w in workers if "missing" not in w.about]
        for _ in range(options.turns):
            for worker in ready:
                answer = worker.ask(2)
                worker.seconds += answer.get("seconds", [])
                time.sleep(0.02)  # until its threads sleep
    finally:
        for worker in workers:
            if worker.process:
                worker.process.kill()
    rows = {w.name: row(w, case) for w in workers}
    print(case.name, {name: round(r["ms"], 2) if "ms" in r else r["missing"] for name, r in rows.items()}, flush=True)
    return rows


def started(contender: Contender, case: Case, threads: int) -> Worker:
    """One at a time: to prepare a model keeps both cores busy."""
    environment = ROOT / "build" / "peers" / (contender.environment or "") / "bin" / "python"
    python = sys.executable if contender.environment is None else str(environment)
    if not Path(python).is_file():
        return Worker(contender.name, None, {"missing": "not installed: run make peers"})
    process = subprocess.Popen(
        [python, "-W", "ignore", "-m", "benchmarks.peers.worker", contender.name, case.name, str(threads)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    worker = Worker(contender.name, process)
    worker.about = worker.answer()
    return worker


def row(worker: Worker, case: Case) -> dict[str, Any]:
    if not worker.seconds:
        return {"missing": worker.about.get("missing", "it never answered")}
    low, median, high = statistics.quantiles(worker.seconds, n=4)
    rate = {"GMAC/s": case.macs / median / 1e9} if case.macs else {}
    return {**worker.about, "ms": median * 1e3, "quartiles ms": [low * 1e3, high * 1e3], **rate}


def tables(results: dict[str, Any]) -> str:
    """One table a case."""
    text = ""
    for case, rows in results.items():
        base, top = rows.get(BASE, {}).get("ms"), rows.get(CEILINGS[0], {}).get("ms")
        header = [
            "",
            "median ms",
            "quartiles",
            "x torch fp32",
            *(["of ceiling"] if top else []),
            "SQNR dB",
            "MB prepared",
        ]
        lines = []
        for name, r in rows.items():
            if "missing" in r:
                lines.append([name, r["missing"].replace("|", "/"), *[""] * (len(header) - 2)])
                continue
            share = [f"{top / r['ms']:.0%}"] if top else []
            quality = [f"{r['sqnr']:.1f}" if r.get("sqnr") is not None else "", f"{r['resident MB']:.0f}"]
            ratio = f"{base / r['ms']:.2f}" if base else ""
            span = " - ".join(f"{q:.2f}" for q in r["quartiles ms"])
            lines.append([name, f"{r['ms']:.2f}", span, ratio, *share, *quality])
        text += f"## {case}\n\n{markdown(header, lines)}\n"
    return text


if __name__ == "__main__":
    main()

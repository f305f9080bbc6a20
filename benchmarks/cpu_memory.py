"""Memory that a process needs to run a model from files, ours beside its peers; each in a fresh process.

    make peers
    python -m benchmarks.cpu_memory        # docs/cpu_memory.md and a dated JSON

*peak* and *at the end* are of the whole process (VmHWM, VmRSS) over loading and three calls; *library* is what it had before
the model was loaded, with the library imported and nothing else: for a small model most of it. *first* are the seconds from
before the library is imported until there is a first result, with the files in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.stored import STORED, Stored
from benchmarks.records import latest_record, markdown, write_record

ROOT = Path(__file__).resolve().parent.parent
CASES = (
    "fashion-dit",
    "fashion-unet",
    "DiT-XL/2, 4 blocks, 256 tokens",
    "DiT-XL/2, 12 blocks, 256 tokens",
    "DiT-XL/2, 28 blocks, 256 tokens",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="parts of names, by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default="", help="parts of names, by commas")
    parser.add_argument("--add", action="store_true", help="keep what else is in the last record")
    options = parser.parse_args()
    cases = [c for c in CASES if any(part in c for part in options.cases.split(","))]
    before = (latest_record("cpu_memory") or {}) if options.add else {}
    results: dict[str, Any] = before.get("cases", {})
    command = f"python -m benchmarks.cpu_memory {shlex.join(sys.argv[1:])}".strip()
    commands = list(dict.fromkeys([*before.get("commands", []), command]))
    chosen = [s for s in STORED.values() if any(part in s.name for part in options.contenders.split(","))]
    for case in cases:  # written as they come, so that a run that is cut short keeps what it measured
        found = {s.name: measure(s, case, options.threads) for s in chosen}
        rows = results.get(case, {}) | found
        results[case] = {name: rows[name] for name in STORED if name in rows}
        report(results, options.threads, commands)
    print(tables(results))


def report(results: dict[str, Any], threads: int, commands: list[str]) -> None:
    path = write_record("cpu_memory", {"threads": threads, "commands": commands, "cases": results})
    lines = "\n".join(f"    {command}" for command in commands)
    head = f"""# Memory: what a process needs to run a model from files

{lines}

Raw: `benchmarks/results/{path.name}`. Each runs in a fresh process: *peak* and *at the end* are of the whole
process over loading and three calls, in MB; *library* is what it had before the model was loaded; *model* is the peak beyond
it; *files* is what lies on the disk; *first* are the seconds from before the library is imported until there is a first result,
with the files in the system's cache.

"""
    (ROOT / "docs" / "cpu_memory.md").write_text(head + tables(results))


def measure(stored: Stored, case: str, threads: int) -> dict[str, Any]:
    environment = ROOT / "build" / "peers" / (stored.environment or "") / "bin" / "python"
    python = sys.executable if stored.environment is None else str(environment)
    if not Path(python).is_file():
        return {"missing": "not installed: run make peers"}
    command = [python, "-W", "ignore", "-m", "benchmarks.peers.stored"]
    with tempfile.TemporaryDirectory() as folder:
        for step in (["store", stored.name, case, folder], ["run", stored.name, folder, str(threads)]):
            done = subprocess.run([*command, *step], cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                return {"missing": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:160]}
        files = sum(
            p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and p.name not in ("inputs.npz", "fp32.onnx")
        )
        found = {**json.loads(done.stdout.splitlines()[-1]), "files": files / 1e6}
    print(case, stored.name, found, flush=True)
    return found


def tables(results: dict[str, Any]) -> str:
    text = ""
    for case, rows in results.items():
        lines = []
        for name, r in rows.items():
            if "missing" in r:
                lines.append([name, r["missing"].replace("|", "/"), "", "", "", "", ""])
                continue
            figures = (r["peak"], r["resident"], r["library"], r["peak"] - r["library"], r["files"])
            first = f"{r['first']:.2f}" if "first" in r else ""
            lines.append([name, *(f"{figure:.0f}" for figure in figures), first])
        text += f"## {case}\n\n{markdown(['', 'peak', 'at the end', 'library', 'model', 'files', 'first'], lines)}\n"
    return text


if __name__ == "__main__":
    main()

"""How a step's time grows with tokens and with width: one block of a DiT, beside the machine's ceiling at that moment.

    make peers
    python -m benchmarks.cpu_scaling       # docs/cpu_scaling.md, .png and a dated JSON; with AMX cpu_scaling_amx

The contenders of a size take turns. The ceilings do the multiply-adds of the block's products on registers alone, without those
of attention, which grow with the square of the tokens.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.cpu_peers import cpu, measure, page_name, tables
from benchmarks.peers.cases import SCALED, SCALING
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.records import write_record

ROOT = Path(__file__).resolve().parent.parent
STYLES = {
    "torch fp32": ("#4c5a67", "-"), "OpenVINO u4": ("#5f8fb4", "-"), "onnxruntime dynamic int8": ("#8fae6b", "-"),
    "aquatint W4A8 r32": ("#d99a7c", "-"), "aquatint W4A8 r32, whole": ("#b5482a", "-"), "bare integer loop": ("#d99a7c", ":"),
    "bare FMA loop": ("#4c5a67", ":"), "bare tile loop": ("#b5482a", ":"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    wanted = [CONTENDERS[name] for name in SCALED]
    cases = {case.name: case for sizes in SCALING.values() for case in sizes.values()}
    results = {name: measure(case, wanted, options) for name, case in cases.items()}
    name = page_name("cpu_scaling", options.threads)
    path = write_record(name, {"threads": options.threads, "turns": options.turns, "cases": results})
    plot(results, ROOT / "docs" / f"{name}.png")
    command = f"python -m benchmarks.cpu_scaling {shlex.join(sys.argv[1:])}".strip()
    head = f"""# CPU: how time grows with tokens and with width

`{command}` on {cpu()}, {options.threads} threads; raw: `benchmarks/results/{path.name}`. One block of a
DiT with random weights. The ceilings do the multiply-adds of its products on registers alone, without those of attention.

![time against tokens and width]({name}.png)

"""
    (ROOT / "docs" / f"{name}.md").write_text(head + tables(results))


def plot(results: dict[str, Any], path: Path) -> None:
    """Milliseconds against tokens and against width, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SCALING), figsize=(11, 4.9))
    for axis, (label, sizes) in zip(axes, SCALING.items(), strict=True):
        for name in SCALED:
            colour, line = STYLES[name]
            if not any("ms" in results[case.name].get(name, {}) for case in sizes.values()):
                continue
            found = {size: results[case.name].get(name, {}).get("ms") for size, case in sizes.items()}
            axis.plot(list(found), [ms or math.nan for ms in found.values()], line, color=colour, marker="o", label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(list(sizes), [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("tokens, 1152 wide" if label == "tokens" else "width, 256 tokens")
        axis.set_ylabel("ms")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="lower center", ncols=len(labels) // 2, fontsize=8, frameon=False)
    figure.suptitle("one block of a DiT, 2 threads", fontsize=10)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

"""Peak memory of a compression, beyond the model itself, by depth: it must not grow with a second model.

    python -m benchmarks.compression_memory

Each depth runs in its own process, after a model as deep but one head wide went the same way: what the libraries keep for a
graph of that size is not counted. `block statistics` is what the widest group needs at once: sample rows, the Gram matrix and
its inverse factor (one in float64, one in float32), and the copies of the group's weight that GPTQ works on. `result` is what
the compressed weights take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from benchmarks.records import markdown, write_record

WIDTH, TOKENS = 768, 64


def measure(depth: int) -> dict[str, float]:
    """Megabytes: of the model, of the result, of the peak beyond the model; in this process."""
    import torch
    from diffusers import DiTTransformer2DModel

    from aquatint.compression import optimize

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=WIDTH // 64, attention_head_dim=64, in_channels=4, out_channels=4, num_layers=depth, sample_size=16
    ).eval()
    call = torch.randn(2, 4, 16, 16), torch.tensor([5, 9]), torch.tensor([1, 2])
    warm = DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=64, num_layers=depth, in_channels=4, sample_size=16)
    optimize(warm.eval(), "svdq-w4a4-r32", lambda m: m(*call))
    del warm
    before = _resident()
    small = optimize(model, "svdq-w4a4-r32", lambda m: m(*call))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    weights = sum(p.nbytes for p in model.parameters()) / 1e6
    return {"depth": depth, "model": weights, "result": small.nbytes() / 1e6, "beyond": peak - before}


def _resident() -> float:
    with open("/proc/self/statm") as stream:  # noqa: PTH123
        return int(stream.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, help="measure one depth and print JSON")
    options = parser.parse_args()
    if options.depth:
        print(json.dumps(measure(options.depth)))
        return
    inner = 4 * WIDTH
    statistics = (4 * 512 * inner * 4 + inner * inner * (4 + 8 + 4) + 6 * WIDTH * inner * 4) / 1e6
    rows = []
    for depth in (2, 4):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compression_memory", "--depth", str(depth)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append({**json.loads(out.splitlines()[-1]), "block statistics": statistics})
        print(rows[-1], flush=True)
    header = ["depth", "model MB", "peak beyond the model MB", "of which result MB", "block statistics MB"]
    names = ("depth", "model", "beyond", "result", "block statistics")
    print(markdown(header, [[f"{row[n]:.0f}" for n in names] for row in rows]))
    print(write_record("compression_memory", {"rows": rows}))


if __name__ == "__main__":
    main()

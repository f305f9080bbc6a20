"""Our CUDA kernels beside every other way to run a linear layer on this GPU, in one run.

    make cuda && python -m benchmarks.cuda_peers            # docs/cuda_peers.md and a dated JSON
    python -m benchmarks.cuda_peers --family sm80           # kernels of an older family, where they run too: cuda_peers_sm80.md
    python -m benchmarks.cuda_peers --tiles --no-page       # every tile of ours beside the one that the rules choose

Each contender is captured as a CUDA graph of several calls and all take turns; figures are medians of device events over the
turns with quartiles. Data is random. `bare int8 loop` issues the tensor cores' products of bytes on registers (on Hopper, one
tile of shared memory too) for as many multiply-adds: the card's ceiling at that moment. A missing peer is named with why.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime import ops
from aquatint.runtime.cuda.calls import at_struct
from aquatint.runtime.cuda.driver import driver
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.launch import Launch
from aquatint.runtime.cuda.linear import GemmKernel, QuantizeKernel
from aquatint.runtime.cuda.sm80 import NVFP4, W4A4, W4A8, W8A8
from aquatint.runtime.cuda.sm90 import TOKENS
from aquatint.runtime.cuda.target import FAMILIES, file
from aquatint.runtime.cuda.target import engine as engine_of
from benchmarks.records import markdown, write_record

SHAPES = ((4608, 3072, 12288), (4608, 12288, 3072), (4608, 3072, 9216), (1024, 1152, 4608), (16384, 2240, 5600))
CALLS, TURNS = 5, 15
BY_NAME = {family.name: family for family, _ in FAMILIES.values()}
# A file, blocks on a multiprocessor, multiply-adds of a block in one round, and its shared memory.
CEILINGS = {
    ("sm90", "ceiling_bytes"): ("ceiling_sm90", 1, 128 * 256 * 128, 34 * 1024),
    ("sm80", "ceiling_bytes"): ("ceiling_sm80", 4, 8 * 8 * 16 * 8 * 32, 0),
    ("sm80", "ceiling_nibbles"): ("ceiling_sm80", 4, 8 * 8 * 16 * 8 * 64, 0),
    ("sm120", "ceiling_bytes"): ("ceiling_sm80", 4, 8 * 8 * 16 * 8 * 32, 0),
}
Run = Callable[[], object]


@dataclass(frozen=True)
class Layer:
    """One linear layer's numbers: x (M, K), weight (N, K), bias, and a branch of rank 32."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    smooth: Tensor
    down: Tensor
    up: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x), self.x.shape[1], len(self.weight)


def layer(m: int, k: int, n: int, rank: int = 32) -> Layer:
    torch.manual_seed(m + k + n)
    made = lambda *shape: torch.randn(*shape, device="cuda")  # noqa: E731
    return Layer(
        made(m, k).bfloat16(), (made(n, k) / k**0.5).bfloat16(), made(n).bfloat16(), torch.rand(k, device="cuda") + 0.5,
        made(rank, k) / k**0.5, made(n, rank) * 0.1,
    )  # fmt: skip


def ours(engine: Engine, found: Layer, formats: tuple[str, str], rank: int) -> tuple[Run, Run, Run]:
    """The whole layer, its quantize alone, its product alone."""
    down, up = (found.down, found.up) if rank else (None, None)
    quantize = QuantizeKernel(engine, ops.Slot, found.smooth, down, format=formats[0])
    stored = format_named(formats[1]).encode(found.weight.float().cpu())
    options: dict[str, Any] = {"formats": formats, "dtype": torch.bfloat16}
    product = GemmKernel(engine, ops.Slot, ops.Slot, *stored, found.bias, ops.Slot if rank else None, up, **options)
    codes = quantize(found.x)
    return lambda: product(*quantize(found.x)), lambda: quantize(found.x), lambda: product(*codes)


def bare_loop(engine: Engine, shape: tuple[int, int, int], kernel: str = "ceiling_bytes") -> Run:
    """The multiply-adds of a product (M, K, N), on every multiprocessor."""
    name, blocks, depth, shared = CEILINGS[engine.family.name, kernel]
    module = driver().load(file(name), shared)
    data = torch.randint(-127, 128, (32768,), device="cuda", dtype=torch.int8)
    grid = engine.multiprocessors * blocks
    out = torch.empty(grid * 256, dtype=torch.int32, device="cuda")
    m, k, n = shape
    rounds = max(1, round(m * k * n / (grid * depth)))
    launch = Launch(name, kernel, grid, 256, shared)
    arguments = [at_struct(data), at_struct(out), at_struct(rounds)]
    return lambda: module.launch(launch, arguments, engine.stream())


def torch_bf16(found: Layer) -> Run:
    return lambda: F.linear(found.x, found.weight, found.bias)


def torchao_float8(found: Layer) -> Run:
    """Float8 rows and columns, quantized on the fly, by torch.compile."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_  # type: ignore

    module = torch.nn.Linear(found.x.shape[1], len(found.weight), device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.copy_(found.weight)
        module.bias.copy_(found.bias)
    quantize_(module, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    compiled = torch.compile(module, dynamic=False)

    def run() -> object:
        with torch.no_grad():
            return compiled(found.x)

    return run


def int_mm(found: Layer) -> Run:
    """cuBLAS on bytes, with nothing quantized and nothing scaled."""
    x, w = (torch.randint(-127, 128, t.shape, device="cuda", dtype=torch.int8) for t in (found.x, found.weight))
    return lambda: torch._int_mm(x, w.T)


def captured(run: Run) -> torch.cuda.CUDAGraph:
    """Several calls as one graph, warmed up."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            run()
    return graph


def measure(contenders: dict[str, Run], turns: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds a call by contender, a number each turn; and why some are missing."""
    graphs, missing = {}, {}
    for name, run in contenders.items():
        try:
            graphs[name] = captured(run)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(turns + 1):
        for name, graph in graphs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if turn:
                taken[name].append(begin.elapsed_time(end) / CALLS)
    return taken, missing


def contenders_of(engine: Engine, found: Layer, tiles: bool) -> dict[str, Run]:
    four, quantize, product = ours(engine, found, W4A8, 32)
    runs: dict[str, Run] = {
        "torch bf16": torch_bf16(found),
        "aquatint W4A8 r32": four,
        "aquatint W4A8 r0": ours(engine, found, W4A8, 0)[0],
        "aquatint W8A8 r32": ours(engine, found, W8A8, 32)[0],
        "of it: quantize": quantize,
        "of it: product": product,
        "bare int8 loop": bare_loop(engine, found.shape),
        "cuBLAS int8, no scales": int_mm(found),
    }
    if W4A4 in engine.family.products:
        runs["aquatint W4A4 r32"], _, runs["of W4A4: product"] = ours(engine, found, W4A4, 32)
        runs["bare int4 loop"] = bare_loop(engine, found.shape, "ceiling_nibbles")
    if NVFP4 in engine.family.products:
        runs["aquatint nvfp4 r32"], _, runs["of nvfp4: product"] = ours(engine, found, NVFP4, 32)
    if not tiles:
        try:
            return runs | {"torchao float8 rowwise, compiled": torchao_float8(found)}
        except ImportError as error:
            reason = str(error)

            def absent() -> object:
                raise ImportError(reason)

            return runs | {"torchao float8 rowwise, compiled": absent}
    for tokens in TOKENS:
        variant = replace(engine, tokens=tokens)
        runs[f"product, {tokens} tokens"] = ours(variant, found, W4A8, 32)[2]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--tiles", action="store_true", help="our product on every tile, instead of torchao")
    parser.add_argument("--family", choices=BY_NAME, help="kernels of an older kind of GPU, where they run too")
    parser.add_argument("--no-page", action="store_true", help="print the tables and write nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures an NVIDIA GPU, and torch sees none")
    engine = engine_of(torch.device("cuda", torch.cuda.current_device()), BY_NAME.get(options.family))
    card, parts, record = torch.cuda.get_device_name(), [], {}
    for shape in SHAPES:
        taken, missing = measure(contenders_of(engine, layer(*shape), options.tiles), options.turns)
        record["x".join(map(str, shape))] = {"milliseconds": taken, "missing": missing}
        parts.append(table(shape, taken, missing))
        print(parts[-1], flush=True)
    if options.no_page:
        return
    name, by = ("cuda_peers", "") if options.family is None else (f"cuda_peers_{options.family}", f" --family {options.family}")
    path = write_record(name, {"gpu": card, "cases": record})
    page = Path(__file__).resolve().parent.parent / "docs" / f"{name}.md"
    head = f"# Linear layers on {card}\n\n`python -m benchmarks.cuda_peers{by}`, torch {torch.__version__}, {path.name}.\n\n"
    page.write_text(head + "\n".join(parts))


def table(shape: tuple[int, int, int], taken: dict[str, list[float]], missing: dict[str, str]) -> str:
    m, k, n = shape
    base = statistics.median(taken["torch bf16"])
    rows = []
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4)
        rate = 2 * m * k * n / middle / 1e9
        rows.append([name, f"{middle:.4f}", f"{low:.4f} to {high:.4f}", f"{base / middle:.2f}", f"{rate:.0f}"])
    rows += [[name, "missing", why, "", ""] for name, why in missing.items()]
    header = [f"(M, K, N) = {shape}", "ms", "quartiles", "x torch bf16", "TOP/s"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()

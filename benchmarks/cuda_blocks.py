"""Whole blocks on this GPU beside PyTorch, in one run: two of Flux's size, and a U-Net's residual block.

    make cuda && python -m benchmarks.cuda_blocks            # docs/cuda_blocks.md and a dated JSON
    python -m benchmarks.cuda_blocks --small --no-page       # narrow blocks: does everything run?

Weights are random. Every contender is captured as a CUDA graph and they take turns, as in `cuda_peers`; SQNR is against the
block in float32. Compressing a block is not in its time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aquatint
from aquatint.passes.recipes import recipe_named
from aquatint.runtime.cuda.target import Cuda, cuda
from benchmarks.cuda_peers import Run, measure
from benchmarks.records import markdown, write_record

RECIPE = "svdq-w4a8-r32-whole"
KEPT = ("@first", "@last")  # of a block by itself every layer is compressed, as in the middle of a model


@dataclass(frozen=True)
class Block:
    """A module in bfloat16 and its arguments, on the CPU."""

    name: str
    module: nn.Module
    arguments: dict[str, Any]


def flux(kind: str, heads: int, tokens: int, text: int) -> Block:
    """A "double" block, with streams of its own for image and text, or a "single" one."""
    from diffusers.models.transformers import transformer_flux

    made = {"double": transformer_flux.FluxTransformerBlock, "single": transformer_flux.FluxSingleTransformerBlock}[kind]
    width = heads * 128
    name = f"Flux {kind} block, width {width}, {tokens} + {text} tokens"
    return Block(name, made(width, heads, 128).bfloat16(), flux_arguments(width, tokens, text))


def flux_arguments(width: int, tokens: int, text: int) -> dict[str, Any]:
    angles = torch.rand(tokens + text, 64) * 6
    rotary = tuple(f(angles).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))
    made = lambda *shape: torch.randn(*shape).bfloat16()  # noqa: E731
    return {
        "hidden_states": made(1, tokens, width), "encoder_hidden_states": made(1, text, width), "temb": made(1, width),
        "image_rotary_emb": rotary,
    }  # fmt: skip


def residual(channels: int, size: int) -> Block:
    from diffusers.models.resnet import ResnetBlock2D

    module = ResnetBlock2D(in_channels=channels, temb_channels=1280).bfloat16()
    arguments = {"input_tensor": torch.randn(2, channels, size, size).bfloat16(), "temb": torch.randn(2, 1280).bfloat16()}
    return Block(f"residual block, {channels} channels, 2 x {size} x {size}", module, arguments)


def blocks(small: bool) -> list[Callable[[], Block]]:
    heads, tokens, text, channels, size = (2, 96, 32, 64, 16) if small else (24, 4096, 512, 320, 64)
    double, single = (partial(flux, kind, heads, tokens, text) for kind in ("double", "single"))
    return [double, single, partial(residual, channels, size)]


def compressed(block: Block, recipe: str) -> aquatint.CompressedModule:
    """The block on the CPU target, every layer by the recipe's first rule."""
    chosen = recipe_named(recipe)
    chosen = replace(chosen, rules=tuple(rule for rule in chosen.rules if rule.match not in KEPT))
    return aquatint.optimize(block.module, chosen, calibrate=lambda model: model(**block.arguments))


def on(device: torch.device, value: Any, dtype: torch.dtype | None = None) -> Any:
    if isinstance(value, tuple):
        return tuple(on(device, each, dtype) for each in value)
    return value.to(device, dtype if value.is_floating_point() else None) if isinstance(value, Tensor) else value


def positions_apart(target: Cuda) -> Cuda:
    """The target without its products that turn queries and keys: these are normed and turned by a kernel behind them."""
    engine = target.engine
    return target if engine is None else replace(target, engine=replace(engine, family=replace(engine.family, turned=None)))


def contenders_of(block: Block, small: aquatint.CompressedModule, apart: aquatint.CompressedModule) -> dict[str, Run]:
    arguments = {name: on(small.device, value) for name, value in block.arguments.items()}
    module = block.module.to(small.device)
    compiled = torch.compile(module, dynamic=False)

    def plainly(model: Any) -> Run:
        def run() -> object:
            with torch.no_grad():
                return model(**arguments)

        return run

    return {
        "torch bf16": plainly(module), "torch.compile bf16": plainly(compiled), f"aquatint {RECIPE}": plainly(small),
        f"aquatint {RECIPE}, positions apart": plainly(apart),
    }  # fmt: skip


def decibels(block: Block, small: aquatint.CompressedModule) -> float:
    """SQNR of all results together, against the block in float32."""
    device = small.device
    wide = block.module.to(device, torch.float32)
    with torch.no_grad():
        exact = results(wide(**{k: on(device, v, torch.float32) for k, v in block.arguments.items()}))
        found = results(small(**{k: on(device, v) for k, v in block.arguments.items()}))
    block.module.to(torch.bfloat16)
    noise = sum(float((f.double() - e.double()).square().sum()) for f, e in zip(found, exact, strict=True))
    signal = sum(float(e.double().square().sum()) for e in exact)
    return 10 * float(torch.log10(torch.tensor(signal / noise)))


def results(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="narrow blocks")
    parser.add_argument("--no-page", action="store_true", help="print the tables and write nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures an NVIDIA GPU, and torch sees none")
    card, parts, record, target = torch.cuda.get_device_name(), [], {}, cuda()
    for made in blocks(options.small):
        torch.manual_seed(0)
        block = made()
        program = compressed(block, RECIPE)
        small, apart = program.on(target), program.on(positions_apart(target))
        quality = decibels(block, small)
        taken, missing = measure(contenders_of(block, small, apart), options.turns)
        record[block.name] = {"milliseconds": taken, "missing": missing, "decibels": quality}
        parts.append(table(block.name, taken, missing, quality, small.without_kernel()))
        print(parts[-1], flush=True)
    if options.no_page:
        return
    path = write_record("cuda_blocks", {"gpu": card, "cases": record})
    page = Path(__file__).resolve().parent.parent / "docs" / "cuda_blocks.md"
    head = f"# Blocks on {card}\n\n`python -m benchmarks.cuda_blocks`, torch {torch.__version__}, {path.name}.\n\n"
    page.write_text(head + "\n".join(parts))


def table(name: str, taken: dict[str, list[float]], missing: dict[str, str], quality: float, without: list[str]) -> str:
    compiled = statistics.median(taken.get("torch.compile bf16") or taken["torch bf16"])
    rows = []
    for contender, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4)
        noise = f"{quality:.1f}" if contender.startswith("aquatint") else ""
        rows.append([contender, f"{middle:.4f}", f"{low:.4f} to {high:.4f}", f"{compiled / middle:.2f}", noise])
    rows += [[contender, "missing", why, "", ""] for contender, why in missing.items()]
    by_meaning = f"\nBy their meaning: {', '.join(sorted(set(without)))}.\n" if without else ""
    return markdown([name, "ms", "quartiles", "x torch.compile", "SQNR dB"], rows) + by_meaning


if __name__ == "__main__":
    main()

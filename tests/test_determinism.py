"""Same seed, same bytes: across processes, and on one thread and on two."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import hashlib, sys, torch
threads, name, recipe, folder = int(sys.argv[1]), *sys.argv[2:]
torch.set_num_threads(threads)
import aquatint
from aquatint.compiler.numerics import reproducible
assert reproducible() or "mkl" not in torch.__config__.show().lower()
from tests.zoo import build, tensors_of
model, (args, kwargs) = build(name)
small = aquatint.optimize(model, recipe, calibrate=lambda m: m(*args, **kwargs))
small.save(folder)
for tensor in tensors_of(small(*args, **kwargs)):
    print(hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest())
"""


def compiled(threads: int, name: str, recipe: str, folder: Path) -> tuple[str, dict[str, str]]:
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(threads), name, recipe, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "recipe", "threads"),
    [("dit", "svdq-w4a8-r32", (1, 2, 2)), ("unet2d", "svdq-w4a4-r32", (1, 2)), ("flux", "svdq-w4a8-r32", (1, 2))],
)
def test_processes_and_threads(name: str, recipe: str, threads: tuple[int, ...], tmp_path: Path) -> None:
    first, *others = (compiled(count, name, recipe, tmp_path / f"{i}.aq") for i, count in enumerate(threads))
    assert all(run == first for run in others)

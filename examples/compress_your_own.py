"""Compress a module that no library knows, save it, load it, and see what was done.

python examples/compress_your_own.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import aquatint


class Mixer(nn.Module):
    """Stands for your model."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 256), nn.Linear(256, 16)
        self.up = nn.ModuleList([nn.Linear(256, 1024) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(1024, 256) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(nn.functional.gelu(up(h)))
        return self.leave(h)


def main() -> None:
    torch.manual_seed(0)
    model, x = Mixer(), torch.randn(4, 64, 16)
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(x))
    with tempfile.TemporaryDirectory() as folder:
        small.save(Path(folder) / "mixer.aq")
        again = aquatint.load(Path(folder) / "mixer.aq", target="cpu")
        error = (again(x) - model(x)).norm() / model(x).norm()
    for row in small.report["sites"]:
        print(f"{row['name']:8} {row['treatment'] or 'kept':24} {row['reason']}")
    print(f"{sum(p.nbytes for p in model.parameters()) / again.nbytes():.2f} times smaller, relative error {error:.4f}")


if __name__ == "__main__":
    main()

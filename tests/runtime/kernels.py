"""What the tests of compiled kernels share: each instruction set as a target, hostile rows, and how near results are."""

from __future__ import annotations

import pytest
import torch

from aquatint.runtime.cpu.native import kernel_set
from aquatint.runtime.cpu.target import Cpu

BRANCH = 3e-3  # of the largest: words have 13 bits, and one channel of `rows` is 10^4 times another
# Of the largest value: tiles hold values and their shares in bfloat16, and queries and keys where the program lets them.
SHARES = {"avx512-amx": {"float32": 4e-3, "bfloat16": 1e-2}}


def target(name: str) -> Cpu:
    found = kernel_set(name)
    if found is None:
        pytest.skip(f"this machine has no {name}")
    return Cpu(found)


def rows(seed: int, m: int, k: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=random) * torch.logspace(-2, 2, k)
    x[: m // 3, :64] = 0
    return x


def assert_near(
    found: torch.Tensor, meaning, *arguments, rtol: float = 1e-4, rounded: torch.Tensor | float = 0.0, **options
) -> None:
    """To 1e-4 of the largest number that goes into the activation: what a GELU leaves far below zero is of no size.

    And to `rounded`, what roundings that the meaning does not have can do to each number.
    """
    expected = meaning(*arguments, **options)
    plain = meaning(*arguments, **{**options, "activation": None}) if options.get("activation") else expected
    bound = rtol * expected.abs() + 1e-4 * plain.abs().max() + rounded
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert ((found - expected).abs() <= bound).all()


def branch_rounding(kernels: str, meaning, codes, weight, h, up, **options) -> torch.Tensor | float:
    """What h comes to at most that tiles read in bfloat16: no number is off by more than 2^-8 of itself."""
    if h is None or not target(kernels).kernels.tiles:
        return 0.0
    nothing = codes.codes, torch.zeros_like(codes.scales)
    return 2.0**-8 * meaning(*nothing, *weight, None, h.abs(), up.abs(), **{**options, "activation": None})


def assert_projected(kernels: str, h: torch.Tensor, x: torch.Tensor, down: torch.Tensor) -> None:
    """h = x down^T: to BRANCH, or with tiles to what rounding each number of x to bfloat16 can do at most."""
    expected, size = x @ down.float().T, x.abs() @ down.float().abs().T
    bound = size * 2.0**-8 if target(kernels).kernels.tiles else torch.full_like(size, BRANCH * expected.abs().max().item())
    assert ((h - expected).abs() <= bound + 1e-4 * expected.abs()).all()

"""What all tests share: reproducible products, two threads, seeds, and the gpu and native tiers."""

from __future__ import annotations

import random

import hypothesis
import pytest
import torch

from aquatint.compiler.numerics import reproducible
from aquatint.runtime.cpu.native import library

# The gate draws the same cases each time; `make fuzz` draws new ones.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None)
hypothesis.settings.load_profile("gate")


def pytest_configure(config: pytest.Config) -> None:
    reproducible()
    torch.set_num_threads(2)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures: a test that fails must fail again, alone too."""
    random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("native") and library() is None:
            item.add_marker(pytest.mark.skip(reason="the CPU library is not built"))

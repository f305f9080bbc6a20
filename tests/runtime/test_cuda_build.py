"""The CUDA kernels as the compiler saw them: all there, and nothing that left the registers. Needs nvcc, and no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aquatint.runtime.cuda import FILES
from aquatint.runtime.cuda_launch import product_plan, quantize_plan

LOGS = Path(__file__).resolve().parent.parent.parent / "build" / "cuda"

pytestmark = pytest.mark.skipif(not (LOGS / "quantize.log").is_file(), reason="no nvcc, or `make cuda` was not run")


@pytest.mark.parametrize("name", FILES)
def test_no_kernel_spills(name: str) -> None:
    log = (LOGS / f"{name}.log").read_text()
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_90a'", log)
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert kernels
    assert len(spilled) == len(kernels)
    assert set(spilled) == {("0", "0", "0")}
    assert "serialized" not in log, "products that wait for each other"


def test_every_kernel_that_a_plan_can_ask_for_was_compiled() -> None:
    logs = "".join((LOGS / f"{name}.log").read_text() for name in FILES)
    compiled = set(re.findall(r"Compiling entry function '(\w+)'", logs))
    for rank in (0, 8, 32, 40, 64):
        assert quantize_plan(100, 256, rank, 132).launch.kernel in compiled
        for m in range(1, 6000, 97):
            for bits in (4, 8):
                assert product_plan(m, 3072, 3072, bits, rank, 132).launch.kernel in compiled

"""The CUDA kernels as the compiler saw them: all there, and nothing that left the registers. Needs nvcc, and no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aquatint.runtime.cuda.launch import NUMBERS, Family
from aquatint.runtime.cuda.refusals import CONV_FORMATS
from aquatint.runtime.cuda.sm80 import SM75, SM80, SM120
from aquatint.runtime.cuda.sm90 import SM90

LOGS = Path(__file__).resolve().parent.parent.parent / "build" / "cuda"
FAMILIES = [SM75, SM80, SM90, SM120]
TARGETS = {"sm75": ("sm_75",), "sm80": ("sm_80", "sm_86", "sm_89", "sm_90"), "sm90": ("sm_90",), "sm120": ("sm_120",)}
# Where they run to be checked alone, and what no plan asks for there.
UNTUNED = {("product_sm80", "sm_90"), ("turned_sm80", "sm_90"), ("turned_sm80", "sm_120"), ("product_w4a4", "sm_120")}

pytestmark = pytest.mark.skipif(not (LOGS / "quantize_sm90.log").is_file(), reason="no nvcc, or `make cuda` was not run")


def compiled(name: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """(kernel, architecture, (bytes of stack, of spilled stores, of spilled loads)) of a file."""
    log = (LOGS / f"{name}.log").read_text()
    assert "serialized" not in log, "products that wait for each other"
    entry = r"Compiling entry function '(\w+)' for '(\w+)'"
    spill = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    kernels, spilled = re.findall(entry, log), re.findall(spill, log)
    assert len(kernels) == len(spilled) > 0
    return [(kernel, sm.rstrip("af"), tuple(map(int, numbers))) for (kernel, sm), numbers in zip(kernels, spilled, strict=True)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_no_kernel_spills(family: Family) -> None:
    for name in family.modules:
        for kernel, architecture, spilled in compiled(name):
            if not {(name.removesuffix("_f16"), architecture), (kernel.rpartition("_")[0], architecture)} & UNTUNED:
                assert spilled == (0, 0, 0), (kernel, architecture)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_kernel_that_a_plan_can_ask_for_was_compiled(family: Family) -> None:
    found = {(name, kernel, sm) for name in family.modules for kernel, sm, _ in compiled(name)}
    launches = [family.quantize(100, 256, rank, number, 132).launch for rank in (0, 8, 32, 40, 64) for number in family.formats]
    launches += [
        family.product(m, 3072, 3072, formats, rank, 132, None).launch
        for rank in (0, 8, 32, 40, 64) for m in range(1, 6000, 97) for formats in family.products
    ]  # fmt: skip
    launches += [
        family.conv(m, 320, 320, 9, formats, rank).launch
        for rank in (0, 8, 32, 64) for m in (1, 4096) for formats in family.products if formats in CONV_FORMATS
    ]  # fmt: skip
    launches += [
        family.turned(m, 3072, 3072, formats, rank, 132, None).launch
        for rank in (0, 8, 32, 40, 64) for m in range(1, 6000, 97) for formats in family.products if family.turned
    ]  # fmt: skip
    for sm in TARGETS[family.name]:
        for numbers in family.numbers:
            assert {(f"{launch.file}{NUMBERS[numbers]}", launch.kernel, sm) for launch in launches} <= found

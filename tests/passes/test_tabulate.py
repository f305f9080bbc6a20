"""What follows from a student's time stamps, and a class, alone is looked up: the same numbers, and fewer products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import InputError, PassError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.program import Program
from aquatint.compiler.statistics import Calibration
from aquatint.passes.tabulate import Tabulate
from aquatint.runtime import target_named
from tests.zoo import build

STAMPS = (999.0, 749.0, 499.0, 249.0)
NOTHING = Context({}, Calibration(((),)))


def captured(name: str) -> Program:
    model, (args, kwargs) = build(name)
    return capture(model, Example(args, kwargs), name, {"_class_name": "DDIMScheduler"})


def called(program: Program, times: list[int], seed: int = 0) -> list[torch.Tensor]:
    """Inputs by the program's own specifications, at these times."""
    random = torch.Generator().manual_seed(seed)
    given = []
    for spec in program.interface.inputs:
        if spec.path == "timestep":
            given.append(torch.tensor(times))
        elif spec.path == "class_labels":
            given.append(torch.arange(len(times)) % 3)
        else:
            given.append(torch.randn(len(times), *spec.example[1:], generator=random))
    return given


@pytest.mark.parametrize(("name", "classes"), [("unet2d", 0), ("dit", 11)])
def test_tables_say_what_products_said(name: str, classes: int, tmp_path: Path) -> None:
    program = captured(name)
    inputs = called(program, [249, 999, 499])
    changed, report = run_pass(program, Tabulate(STAMPS, classes), NOTHING)
    assert report.sites[""]["tables"] > 0
    assert not [s.name for s in changed.sites if "time" in s.name or "norm1" in s.name]
    for got, expected in zip(changed(*inputs), program(*inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    other = changed(*called(program, [248, 999, 499]))[0]
    assert other[0].isnan().any()
    assert not other[1:].isnan().any()

    module = CompressedModule(changed, target_named("cpu"), {}, {})
    module.save(tmp_path / "tables.aq")
    assert torch.equal(aquatint.load(tmp_path / "tables.aq").run(inputs)[0], module.run(inputs)[0])
    small = aquatint.optimize(module, "w8a8", calibrate=lambda m: m(*inputs))
    assert not small.run(inputs)[0].isnan().any()
    with pytest.raises(InputError, match="has tables for the times 999, 749, 499, 249"):
        aquatint.optimize(module, "w8a8", calibrate=lambda m: m(*called(program, [3, 5, 7])))


def test_a_program_without_times_is_refused() -> None:
    program = captured("kl_decoder")
    with pytest.raises(PassError, match="is not called with a timestep"):
        run_pass(program, Tabulate(STAMPS), NOTHING)

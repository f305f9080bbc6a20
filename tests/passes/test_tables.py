"""A table that rows are looked up in is held in 8 bits, and never widened whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.statistics import Calibration
from aquatint.passes.tables import Tables
from tests.onnx.common import decibel, run, session

NOTHING = Context({}, Calibration(((),)))


class Labelled(nn.Module):
    """Linears of rows that are looked up in a table, which may be read elsewhere too."""

    def __init__(self, rows: int = 1001, width: int = 384, shared: bool = False) -> None:
        super().__init__()
        self.table, self.shared = nn.Embedding(rows, width), shared
        self.linears = nn.Sequential(nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, labels: Tensor) -> Tensor:
        y = self.linears(self.table(labels))
        return y + self.table.weight.mean() if self.shared else y


def test_a_large_table_is_stored_in_bytes(tmp_path: Path) -> None:
    model, labels = Labelled(), torch.tensor([3, 1000, 3])
    program = capture(model, Example((labels,), {}), "labelled")
    changed, report = run_pass(program, Tables(), NOTHING)
    assert report.sites[""]["tables"]["table"] > 40
    assert changed.weights["table.codes"].dtype == torch.int8
    assert "table.weight" not in changed.weights
    assert program.nbytes() - changed.nbytes() > 2.9 * 1001 * 384
    (found,), (expected,) = changed(labels), program(labels)
    assert decibel([found], [expected]) > 40


def test_presets_do_it_and_files_keep_it(tmp_path: Path) -> None:
    model, labels = Labelled(), torch.tensor([3, 1000, 3])
    small = aquatint.optimize(model, "w8a16", calibrate=lambda m: m(labels))
    small.save(tmp_path / "small.aq")
    loaded = aquatint.load(tmp_path / "small.aq")
    assert torch.equal(loaded(labels), small(labels))
    assert loaded.program.weights["table.codes"].dtype == torch.int8
    written = aquatint.export_onnx(small, tmp_path / "onnx")
    assert written.path.stat().st_size < 2.5 * 1001 * 384
    assert decibel(run(session(written.path), [labels]), [small(labels)]) > 60


@pytest.mark.parametrize("model", [Labelled(rows=10), Labelled(shared=True)])
def test_others_are_left_alone(model: Labelled) -> None:
    program = capture(model, Example((torch.tensor([3, 7]),), {}), "labelled")
    changed, report = run_pass(program, Tables(), NOTHING)
    assert report.sites[""]["tables"] == {}
    assert "table.weight" in changed.weights


def test_a_table_with_a_nan_is_left_alone() -> None:
    model = Labelled()
    with torch.no_grad():
        model.table.weight[5, 5] = float("nan")
    changed, _ = run_pass(capture(model, Example((torch.tensor([3, 7]),), {}), "labelled"), Tables(), NOTHING)
    assert "table.weight" in changed.weights

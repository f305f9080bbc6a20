"""What a distillation trains: adapters, the branch of a quantized model, and a branch for each step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import aquatint
from aquatint.compiler.errors import ArtifactError, DistillError, ExportError, InputError, PassError
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.statistics import Calibration
from aquatint.compiler.training import Schooling
from aquatint.passes.sparse import Sparse
from tests.flow_toy import Small, called, scheduler


def recipe() -> aquatint.Recipe:
    """4 bits for all but what is first and last."""
    found = aquatint.recipe_named("svdq-w4a4-r32")
    return replace(found, rules=(*found.rules[:1], aquatint.Rule("@first", None), aquatint.Rule("@last", None)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_are_added_to_the_weights(precision: str) -> None:
    model, schooling = Small().eval(), Schooling(200, rate=5e-3, precision=precision)
    student = aquatint.distill(model, scheduler(), "sfd", 1, train="lora", calibrate=called, schooling=schooling, batch=64)
    before, after = model.inner.weight, student.program.weights["inner.weight"]
    assert student.program.weights.keys() == dict(model.named_parameters()).keys()
    assert 0 < torch.linalg.matrix_rank(after - before, rtol=1e-4) <= 32
    assert torch.equal(student.program.weights["inner.bias"], model.inner.bias)


def test_a_student_is_stored_in_as_many_bits_as_its_teacher(tmp_path: Path) -> None:
    model = Small().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    student = aquatint.distill(model, scheduler(), "sfd", 1, calibrate=called, schooling=Schooling(50, rate=2e-3), batch=64)
    assert all(torch.equal(w.half().float(), w) for w in student.program.weights.values())
    assert not torch.equal(student.program.weights["inner.weight"], model.inner.weight)
    student.save(tmp_path / "student.aq")
    page = (tmp_path / "student.aq" / "report.html").read_text()
    assert "nearer" in page
    assert "smaller as stored" not in page


def test_a_speed_pack_changes_the_branch_alone(tmp_path: Path) -> None:
    model = Small().eval()
    base = aquatint.optimize(model, recipe(), lambda m: [called(m) for _ in range(4)])
    schooling = Schooling(100, rate=5e-3)
    fast = aquatint.distill(
        base, scheduler(), "sfd", 1, train="branch", teacher=model, calibrate=called, schooling=schooling, batch=64
    )
    base.save(tmp_path / "base.aq")
    fast.save_pack(tmp_path / "one-step.safetensors")
    again = aquatint.load(tmp_path / "base.aq").with_pack(tmp_path / "one-step.safetensors")
    x, time = torch.randn(3, 2, 1, 1), torch.tensor([999] * 3)
    assert torch.equal(again(x, time), fast(x, time))
    assert again.program.sampler == fast.program.sampler
    assert (tmp_path / "one-step.safetensors").stat().st_size < (tmp_path / "base.aq" / "weights.safetensors").stat().st_size

    with torch.no_grad():
        model.inner.weight.add_(0.1)
    other = aquatint.optimize(model, recipe(), lambda m: [called(m) for _ in range(4)])
    with pytest.raises(ArtifactError, match="over another base"):
        other.with_pack(tmp_path / "one-step.safetensors")
    with pytest.raises(ArtifactError, match="but no speed pack"):
        base.with_pack(tmp_path / "base.aq" / "weights.safetensors")
    with pytest.raises(ArtifactError, match="has no sampler"):
        base.save_pack(tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def test_branches_by_step(tmp_path: Path) -> None:
    model = Small().eval()
    base = aquatint.optimize(model, recipe(), lambda m: [called(m) for _ in range(4)])
    options: dict[str, Any] = {
        "train": "branch", "teacher": model, "calibrate": called, "schooling": Schooling(60, rate=5e-3), "batch": 64
    }  # fmt: skip
    one, fast = (aquatint.distill(base, scheduler(), "sfd", 2, by_step=b, **options) for b in (False, True))
    name = next(n for n in fast.program.weights if n.endswith(".up"))
    assert fast.program.weights[name].shape == (2, *one.program.weights[name].shape)
    assert not torch.equal(*fast.program.weights[name])
    assert fast.report["distillation"]["student"] < fast.report["distillation"]["teacher"]

    first, second = fast.program.sampler["timesteps"]
    x = torch.randn(3, 2, 1, 1)
    seen = [fast(x, torch.full((3,), time)) for time in (first, second)]
    for time, found in zip((first, second), seen, strict=True):
        (meant,) = fast.program(x, torch.full((3,), time))
        torch.testing.assert_close(found, meant, rtol=1e-2, atol=1e-2 * float(meant.abs().max()))
        again = [fast(x, torch.full((3,), time)) for _ in range(3)]  # replayed
        assert all(torch.equal(found, other) for other in again)
    with pytest.raises(InputError, match=f"branches for the times 999, {second}, .* is called at 7: sample it with its own"):
        fast(x, torch.full((3,), 7))
    with pytest.raises(InputError, match=f"is called at {second}, 999"):
        fast(x, torch.tensor([999, second, 999]))
    mixed = fast.program(x, torch.tensor([999, second, 999]))[0]
    assert mixed.isnan().all()

    fast.save(tmp_path / "fast.aq")
    fast.save_pack(tmp_path / "fast.safetensors")
    one.save_pack(tmp_path / "one.safetensors")
    for again in (aquatint.load(tmp_path / "fast.aq"), base.with_pack(tmp_path / "fast.safetensors")):
        assert torch.equal(again(x, torch.full((3,), second)), seen[1])
    swapped = base.with_pack(tmp_path / "fast.safetensors").with_pack(tmp_path / "one.safetensors")
    assert torch.equal(swapped(x, torch.full((3,), second)), one(x, torch.full((3,), second)))
    with pytest.raises(ExportError, match="of which a file would need one"):
        aquatint.export_onnx(fast, tmp_path / "onnx")
    with pytest.raises(PassError, match="an edit is of no step"):
        run_pass(fast.program, Sparse(), Context({}, Calibration(((),))))
    with pytest.raises(DistillError, match="by step are what train='branch' trains"):
        aquatint.distill(model, scheduler(), "sfd", 2, by_step=True, calibrate=called)
    with pytest.raises(DistillError, match="or one by step already"):
        aquatint.distill(fast, scheduler(), "sfd", 2, by_step=True, **options)


def test_a_quantized_student_recovers_what_it_said(tmp_path: Path) -> None:
    model = Small().eval()
    options: dict[str, Any] = {"calibrate": called, "batch": 64}
    student = aquatint.distill(model, scheduler(), "sfd", 2, schooling=Schooling(60, rate=2e-3), **options)
    small = aquatint.optimize(student, recipe(), lambda m: [called(m) for _ in range(4)])
    options |= {"train": "branch", "schooling": Schooling(60, rate=1e-3)}
    again = aquatint.distill(small, scheduler(), "recover", 2, teacher=student, **options)
    found = again.report["distillation"]
    assert found["student"] < 0.9 * found["quantized"]
    assert "from the student before it was quantized" in found["comparison"]
    assert again.program.sampler == student.program.sampler, "its times are kept, uneven ones too"
    assert again.program.sampler["timesteps"] != [999, 499]
    again.save(tmp_path / "again.aq")
    assert "nearer to the student before it was quantized" in (tmp_path / "again.aq" / "report.html").read_text()
    again.save_pack(tmp_path / "recovered.safetensors")
    x, time = torch.randn(3, 2, 1, 1), torch.tensor([999] * 3)
    assert torch.equal(small.with_pack(tmp_path / "recovered.safetensors")(x, time), again(x, time))

    with pytest.raises(
        DistillError, match="a student in 2 steps without noise between them; the teacher's sampler: none in no"
    ):
        aquatint.distill(small, scheduler(), "recover", 2, teacher=model, **options)
    with pytest.raises(DistillError, match=r"a student in 4 steps .* sampler: DPMSolverMultistepScheduler in 2 steps"):
        aquatint.distill(small, scheduler(), "recover", 4, teacher=student, **options)
    with pytest.raises(DistillError, match="train='branch'"):
        aquatint.distill(small, scheduler(), "recover", 2, teacher=student, calibrate=called)
    with pytest.raises(DistillError, match="leave guidance out"):
        aquatint.distill(small, scheduler(), "recover", 2, teacher=student, guidance=2.0, **options)
    with pytest.raises(DistillError, match="further from what it was"):
        aquatint.distill(small, scheduler(), "recover", 2, teacher=student, **options | {"schooling": Schooling(5, rate=1.0)})

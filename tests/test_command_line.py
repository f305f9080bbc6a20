"""The commands, on small models on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aquatint
from aquatint.__main__ import main
from aquatint.compiler.by_step import steps_of
from aquatint.passes.recipes import DEFAULT
from aquatint.runtime.cpu.native import library

from .zoo import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline folder with a U-Net and its scheduler."""
    from diffusers import DDIMScheduler

    model, _ = build("unet2d")
    model.save_pretrained(tmp_path / "pipe" / "unet")  # type: ignore[operator]
    DDIMScheduler(num_train_timesteps=100).save_pretrained(tmp_path / "pipe" / "scheduler")
    return tmp_path / "pipe"


def test_compile_inspect_run_bench(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.aq"
    assert main(["compile", str(folder), "--recipe", "svdq-w4a4-r32", "-o", str(out), "--calls", "2"]) == 0
    assert "smaller" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sampler"]["num_train_timesteps"] == 100
    assert "<svg" in (out / "report.html").read_text()
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "conv_in" in shown
    assert "aquatint::quantize" in shown
    images = tmp_path / "images.safetensors"
    for seed in ("3", "4"):
        command = ["run", str(out), "-o", str(images), "--count", "2", "--steps", "2", "--seed", seed]
        assert main(command) == 0
        drawn = load_file(images)["images"]
        assert drawn.shape == (2, 3, 16, 16)
        if seed == "3":
            second = drawn[1]
    assert torch.allclose(drawn[0], second, atol=1e-4), "an image depends on its own seed alone"
    assert main(["run", str(out), "-o", str(tmp_path / "grid.png"), "--count", "3", "--steps", "1"]) == 0
    assert (tmp_path / "grid.png").stat().st_size > 200
    assert main(["bench", str(out), "--model", str(folder), "--repeat", "3"]) == 0
    assert "torch fp32" in capsys.readouterr().out


def test_distill(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import DDIMScheduler

    DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    base, pack, student = (tmp_path / name for name in ("base.aq", "pack.safetensors", "student.aq"))
    assert main(["compile", str(folder), "--recipe", "svdq-w4a8-r32", "-o", str(base), "--calls", "2"]) == 0
    quick = ["--steps", "2", "--iterations", "8", "--batch", "4"]
    assert main(["distill", str(folder), *quick, "--teacher", "w8a8", "--rate", "1e-4", "-o", str(student)]) == 0
    assert "2 steps: " in capsys.readouterr().out
    assert aquatint.load(student).program.sampler["num_inference_steps"] == 2
    branch = [*quick, "--base", str(base), "--by-step", "--rate", "1e-3"]
    assert main(["distill", str(folder), *branch, "-o", str(pack)]) == 0
    assert len(steps_of(aquatint.load(base).with_pack(pack).program.graph).stamps) == 2
    assert main(["distill", str(folder), *quick, "--by-step", "-o", str(tmp_path / "none.aq")]) == 2
    assert "give it with --base" in capsys.readouterr().err
    assert main(["distill", str(folder), *quick, "-o", str(tmp_path / "none.safetensors")]) == 2
    assert not (tmp_path / "none.safetensors").exists()


def test_export_and_lint(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.aq"
    assert main(["compile", str(folder), "-o", str(out), "--calls", "2"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == DEFAULT, "as `optimize` does it"
    ranges = manifest["ranges"]
    assert all(low < high for both in ranges.values() for low, high in both)
    assert main(["export", str(out), "-o", str(tmp_path / "onnx"), "--weights", "w5"]) == 2
    assert not (tmp_path / "onnx").exists()
    assert "known: w4-fold" in capsys.readouterr().err
    assert main(["export", str(out), "-o", str(tmp_path / "onnx")]) == 0
    assert "model.onnx" in capsys.readouterr().out
    scheduler = json.loads((tmp_path / "onnx" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["num_train_timesteps"] == 100
    assert (
        main(["lint", str(tmp_path / "onnx" / "unet" / "model.onnx"), "--runs", "2", "--size", "s1=16", "--size", "s2=16"]) == 0
    )
    assert "0 findings" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "nothing"), "-o", str(tmp_path / "x")]) == 2
    plate = ["export", str(out), "-o", str(tmp_path / "out.plate"), "--target", "plate", "--size"]
    assert main([*plate, "batch"]) == 2
    assert "--size takes NAME=N" in capsys.readouterr().err
    assert main([*plate[:-1], "--weights", "w8a8"]) == 2
    assert "--weights is not for the target plate" in capsys.readouterr().err
    if library() is not None:
        assert main([*plate, "batch=3"]) == 0
        told = capsys.readouterr().out
        assert "the module, " in told
        assert "sample [3, 3, 16, 16], timestep [3]" in told


def test_single_file_and_component(folder: Path, tmp_path: Path) -> None:
    file = next((folder / "unet").glob("*.safetensors"))
    assert main(["compile", str(file), "--recipe", "w8a16", "-o", str(tmp_path / "a.aq"), "--calls", "1"]) == 0
    assert main(["compile", str(folder / "unet"), "--recipe", "w8a16", "-o", str(tmp_path / "b.aq"), "--calls", "1"]) == 0
    assert (tmp_path / "a.aq" / "weights.safetensors").read_bytes() == (tmp_path / "b.aq" / "weights.safetensors").read_bytes()


def test_faults_are_one_line_and_write_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.aq"
    (tmp_path / "empty").mkdir()
    for command, message in (
        (["compile", str(tmp_path / "empty"), "-o", str(out)], "is no model"),
        (["compile", str(folder), "--recipe", "nonsense", "-o", str(out)], "no recipe 'nonsense'"),
        (["compile", str(folder), "--keep", "nobody.*", "-o", str(out)], "matches no site"),
        (["inspect", str(tmp_path)], "manifest.json is missing"),
        (["demo", "--models", str(tmp_path)], "is not there"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not out.exists()


def test_keep(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.aq"
    assert main(["compile", str(folder), "--recipe", "w8a16", "--keep", "mid_block*", "-o", str(out), "--calls", "1"]) == 0
    rows = {row["name"]: row for row in json.loads((out / "manifest.json").read_text())["report"]["sites"]}
    kept = [row for name, row in rows.items() if name.startswith("mid_block")]
    assert kept
    assert all(row["treatment"] is None and "--keep" in row["reason"] for row in kept)

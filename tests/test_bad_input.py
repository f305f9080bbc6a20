"""What a user may get wrong: each a clear error, or a reported refusal, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import aquatint
from aquatint.checkpoint import CheckpointError, open_checkpoint
from aquatint.compiler.artifact import VERSION
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import ArtifactError, CalibrationError, CaptureError, InputError, PassError, RecipeError
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.recipe import Rule, Treatment
from aquatint.runtime import target_named

from .zoo import build


class Small(nn.Module):
    """Three linears in a row: the outer two are a first and a last layer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.middle, self.leave = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(torch.relu(self.middle(torch.relu(self.enter(x)))))


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def run(model: nn.Module) -> object:
    return model(X)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    aquatint.optimize(Small(), calibrate=run).save(tmp_path / "a.aq")
    return tmp_path / "a.aq"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_and_reported(value: float) -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.good, self.bad, self.leave = (
                nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.enter(x)
            return self.leave(self.good(h) + self.bad(h).nan_to_num(0.0, 0.0, 0.0))

    twins = Twins()
    twins.bad.weight.data[3, 4] = value
    small = aquatint.optimize(twins, calibrate=run)
    rows = {row["name"]: row for row in small.report["sites"]}
    assert rows["good"]["treatment"] is not None
    assert rows["bad"]["treatment"] is None
    assert rows["bad"]["reason"] == "refused: its weight holds 1 NaN or Inf"
    assert torch.equal(small.program.weights["bad.weight"].isfinite(), twins.bad.weight.isfinite())


def test_nothing_to_compress() -> None:
    with pytest.raises(RecipeError, match="nothing to compress"):
        aquatint.optimize(nn.GELU(), calibrate=run)
    with pytest.raises(RecipeError, match=r"compresses nothing .* a last layer"):
        aquatint.optimize(nn.Linear(8, 8), calibrate=run)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(RecipeError, match="no recipe 'w3a3'; known: svdq-w4a4-r32"):
        aquatint.optimize(Small(), "w3a3", calibrate=run)
    with pytest.raises(RecipeError, match="no number format 'int5'"):
        Treatment("int5")
    recipe = aquatint.recipe_named("w8a8").with_rules(Rule("midle", None))
    with pytest.raises(RecipeError, match=r"rule 'midle' matches no site of Small; its sites are enter, middle"):
        aquatint.optimize(Small(), recipe, calibrate=run)


def test_a_width_that_does_not_divide_into_groups() -> None:
    recipe = aquatint.recipe_named("svdq-w4a8-r32").with_rules(Rule("leave", Treatment("int4-g64", "int8", 8)))
    small = aquatint.optimize(
        Small(72), aquatint.Recipe(recipe.name, recipe.passes, (*recipe.rules, Rule("enter", Treatment("int8")))), calibrate=run
    )
    rows = {row["name"]: row for row in small.report["sites"]}
    assert rows["middle"]["reason"] == "refused: K=72 is not a multiple of 64, the group of int4-g64"
    assert rows["enter"]["treatment"] is not None


def test_calibration_that_never_calls_or_cannot_be_told() -> None:
    with pytest.raises(CalibrationError, match="never called the model"):
        aquatint.optimize(Small(), calibrate=lambda model: None)
    with pytest.raises(CalibrationError, match="can't be told from its configuration"):
        aquatint.optimize(Small())
    with pytest.raises(CalibrationError, match=r"no nn\.Module"):
        aquatint.optimize("a string")


def test_nan_in_the_calibration_names_the_pass() -> None:
    with pytest.raises(PassError, match="NaN in the inputs"):
        aquatint.optimize(Small(), calibrate=lambda m: m(torch.full((2, 5, 8), torch.nan)))


def test_a_model_that_cannot_be_captured_names_its_line() -> None:
    class Branching(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:  # this line
                return self.leave(self.enter(x))
            return super().forward(x)

    with pytest.raises(CaptureError, match=r"test_bad_input.py:\d+ in forward"):
        aquatint.optimize(Branching(), calibrate=run)

    class Random(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.rand_like(x))

    with pytest.raises(CaptureError, match=r"rand_like.*not in the table(.|\n)*test_bad_input.py"):
        aquatint.optimize(Random(), calibrate=run)


def test_the_model_is_not_changed() -> None:
    model = Small().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    aquatint.optimize(model, calibrate=run)
    assert model.training
    assert not model._forward_pre_hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_calls_that_do_not_fit() -> None:
    small = aquatint.optimize(Small(), calibrate=run)
    with pytest.raises(InputError, match=r"x has shape \[2, 5, 9\]; expected \['s0', 's1', 8\]"):
        small(torch.zeros(2, 5, 9))
    with pytest.raises(InputError, match="missing a required argument"):
        small()
    with pytest.raises(InputError, match=r"x\.0: not given"):
        small([1.0])


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + timestep[:, None]


@pytest.mark.parametrize("time", ["soon", object(), numpy.ones(3)])
def test_a_time_that_is_no_number(time: object) -> None:
    small = aquatint.optimize(Timed(), "w8a16", calibrate=lambda m: m(torch.randn(2, 64), torch.tensor([1.0, 2.0])))
    assert torch.equal(small(torch.ones(2, 64), 3.0), small(torch.ones(2, 64), torch.tensor([3.0, 3.0])))
    with pytest.raises(InputError, match=r"timestep is .*; expected a number or a tensor \['s0'\]"):
        small(torch.ones(2, 64), time)


def test_artifacts_that_are_none(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such folder"):
        aquatint.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"manifest.json is missing"):
        aquatint.load(tmp_path / "empty")
    (tmp_path / "empty" / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not of an aquatint artifact"):
        aquatint.load(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="no target 'tpu'"):
        aquatint.load(artifact, target="tpu")


@pytest.mark.parametrize("name", ["manifest.json", "graph.json", "weights.safetensors"])
def test_a_truncated_or_missing_file(artifact: Path, name: str) -> None:
    whole = (artifact / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (artifact / name).write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=name):
            aquatint.load(artifact)
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        aquatint.load(artifact)


def _edit(artifact: Path, name: str, change) -> None:
    """Edit a file and make its digest fit, as someone would who means it."""
    import hashlib

    data = json.loads((artifact / name).read_text())
    change(data)
    (artifact / name).write_text(json.dumps(data))
    manifest = json.loads((artifact / "manifest.json").read_text())
    for file in manifest["files"]:
        manifest["files"][file] = hashlib.sha256((artifact / file).read_bytes()).hexdigest()
    (artifact / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g["nodes"][0].update(op="python::eval"),
        lambda g: g["nodes"][0].update(op="aten::from_file.default"),
        lambda g: g["nodes"][0].update(args=[{"node": "nowhere"}]),
        lambda g: g["nodes"][0].update(args=[{"dtype": "__import__"}]),
        lambda g: g["nodes"].pop(0),
        lambda g: g.pop("results"),
        lambda g: g.update(inputs=[]),
        lambda g: g["interface"]["inputs"].clear(),
        lambda g: g.update(nodes=7),
    ],
)
def test_a_graph_that_was_edited(artifact: Path, change) -> None:
    _edit(artifact, "graph.json", change)
    with pytest.raises(ArtifactError, match=r"graph.json|manifest.json"):
        aquatint.load(artifact)


def test_a_newer_version_and_an_output_class_from_elsewhere(artifact: Path) -> None:
    _edit(
        artifact,
        "graph.json",
        lambda g: g["interface"].update(
            output={"kind": "class", "class": "os:system", "items": {"a": {"kind": "tensor", "index": 0}}}
        ),
    )
    result = aquatint.load(artifact)(X)
    assert type(result).__name__ == "Output"
    assert result.a is result[0] is result["a"]
    _edit(artifact, "manifest.json", lambda m: m.update(version=VERSION + 1))
    with pytest.raises(ArtifactError, match=f"has version {VERSION + 1}; this aquatint reads version {VERSION}"):
        aquatint.load(artifact)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_version_is_read(version: int, tmp_path: Path) -> None:
    artifact = tmp_path / "a.aq"
    aquatint.optimize(Small(), "svdq-w4a8-r32", calibrate=run).save(artifact)
    expected = aquatint.load(artifact)(X)
    _edit(artifact, "manifest.json", lambda m: m.update(version=version))
    assert torch.equal(aquatint.load(artifact)(X), expected)


def test_weights_that_an_older_version_stored_otherwise(artifact: Path) -> None:
    _edit(artifact, "manifest.json", lambda m: m.update(version=2))
    with pytest.raises(ArtifactError, match="int4-g64-whole as version 2 stored them: compile the model again"):
        aquatint.load(artifact)


def test_saving_loses_nothing(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in artifact.iterdir()}
    small = aquatint.load(artifact)
    monkeypatch.setattr("aquatint.compiler.artifact._swap", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        small.save(artifact)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in artifact.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.aq"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ArtifactError, match="is no artifact: it stays as it is"):
        small.save(tmp_path / "notes")
    small.save(artifact)
    assert {p.name: p.read_bytes() for p in artifact.iterdir()} == before


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="found: nothing"):
        open_checkpoint(tmp_path)
    config = {"_class_name": "UNet2DModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"no \*.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\x80\x04}\x94.")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_checkpoint(tmp_path)
    shutil.move(tmp_path / "model.bin", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "os.system"}))
    with pytest.raises(CheckpointError, match=r"class 'os.system'"):
        open_checkpoint(tmp_path)


def test_sizes_that_the_model_does_not_take() -> None:
    model, (args, kwargs) = build("unet2d")
    program = capture(model, Example(args, kwargs), "unet2d")
    module = CompressedModule(program, target_named("reference"), {}, {})
    sample, *others = program.interface.flatten(args, kwargs)[0]
    wrong = sample[..., :-1]
    with pytest.raises(InputError) as error:
        module.run([wrong, *others])
    assert f"can't run on sample {list(wrong.shape)}" in str(error.value)
    assert f"captured with sample {list(sample.shape)}" in str(error.value)

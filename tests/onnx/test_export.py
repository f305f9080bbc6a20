"""Every architecture as an ONNX file in an unmodified onnxruntime, held against the operators' meaning.

The file differs from the program on purpose, so results agree to a tolerance: inputs of linears have one scale and not one a
row, products have the low-rank branch in bytes, and convolutions have fixed scales and results in bytes. 8 bits are good for
about 40 dB in a chain of linears, and for about 30 where every convolution rounds its result. `fp32` has none of this: what it
leaves out is the rounding of inputs, which the program does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnx_ir as ir
import pytest
import torch

import aquatint
from aquatint.checkpoint import open_checkpoint
from aquatint.commands.demo import MODELS
from aquatint.compiler.errors import ExportError
from aquatint.export import export_onnx, onnx_model
from tests.zoo import ZOO, build

from .common import compressed, decibel, hasty, inputs_of, reference, run, session

WITH_CONVOLUTIONS = ("unet2d", "sd", "sdxl", "controlnet", "kl_decoder", "dc_decoder")


def test_a_lookup_in_complex_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="index"):
        export_onnx(compressed("zimage"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in ZOO if name != "zimage"])
def test_architecture(name: str, tmp_path: Path) -> None:
    model = compressed(name)
    written = export_onnx(model, tmp_path)
    onnx.checker.check_model(written.path)
    inputs = inputs_of(model, name)
    results = run(session(written.path), inputs)
    assert decibel(results, reference(model, inputs)) > (24 if name in WITH_CONVOLUTIONS else 38)
    assert [spec.name for spec in session(written.path).get_inputs()] == list(written.inputs)
    assert (written.path.parent / "config.json").is_file()


@pytest.mark.parametrize(("folder", "least"), [("fashion-dit", 38), ("fashion-unet", 31)])
def test_shipped_models(folder: str, least: float, tmp_path: Path) -> None:
    """Calibrated by their own sampler, on images that calibration did not see, with the preset's full search."""
    found = open_checkpoint(MODELS / folder)
    model = aquatint.optimize(found.model, sampler=found.scheduler, target="reference")
    written = export_onnx(model, tmp_path)
    torch.manual_seed(1)
    inputs = [torch.randn(3, 1, 28, 28), torch.tensor([900, 500, 20]), torch.tensor([3, 7, 10])]
    inputs = inputs[: len(model.program.interface.inputs)]
    assert decibel(run(session(written.path), inputs), reference(model, inputs)) > least


@pytest.fixture(scope="module")
def unet() -> aquatint.compiler.module.CompressedModule:  # type: ignore[name-defined]
    return compressed("unet2d", smooth=True)


@pytest.fixture(scope="module")
def dit() -> aquatint.compiler.module.CompressedModule:  # type: ignore[name-defined]
    return compressed("dit", smooth=True)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 24, 32)])
def test_batch_and_resolution_are_free(unet, tmp_path: Path, shape: tuple[int, ...]) -> None:
    opened = session(export_onnx(unet, tmp_path).path)
    torch.manual_seed(1)
    inputs = [torch.randn(shape), torch.randint(0, 999, shape[:1])]
    assert decibel(run(opened, inputs), reference(unet, inputs)) > 24


def test_dynamic_convolutions_where_no_range_is_known(unet, tmp_path: Path) -> None:
    """Bytes gathered by taps: nearer than fixed scales, as the results are not rounded."""
    program = replace(unet.program, ranges={})
    free, fixed = (session(export_onnx(p, tmp_path / name).path) for p, name in ((program, "a"), (unet, "b")))
    found = []
    for seed in range(1, 5):  # images differ by a decibel
        inputs = inputs_of(unet, "unet2d", seed=seed)
        expected = reference(unet, inputs)
        found.append(decibel(run(free, inputs), expected))
        assert found[-1] > decibel(run(fixed, inputs), expected)
    assert sum(found) / len(found) > 32


def test_choices_of_weights(dit, tmp_path: Path) -> None:
    inputs = inputs_of(dit, "dit", seed=3)
    expected = reference(dit, inputs)
    made = {w: export_onnx(dit, tmp_path / w, weights=w) for w in ("fp32", "w8a8", "w4-fold", "w4-nbits")}
    results = {w: run(session(e.path), inputs) for w, e in made.items()}
    assert decibel(results["fp32"], expected) > 45
    assert decibel(results["w4-nbits"], expected) > 40
    assert torch.equal(results["w8a8"][0], results["w4-fold"][0])  # the same bytes, folded at load or before
    sizes = {w: e.nbytes for w, e in made.items()}
    assert sizes["w4-fold"] < sizes["fp32"] / 2
    exact = run(session(made["w4-nbits"].path, session__qdq_matmulnbits_accuracy_level="1"), inputs)
    assert decibel(exact, results["fp32"]) > 80


def test_a_scale_for_each_row_is_nearer(dit, tmp_path: Path) -> None:
    inputs = inputs_of(dit, "dit", seed=3)
    inputs[0][:, :, :4] *= 12  # some rows far larger than others
    expected = reference(dit, inputs)
    by = {s: decibel(run(session(export_onnx(dit, tmp_path / s, scales=s).path), inputs), expected) for s in ("tensor", "row")}
    assert by["row"] > by["tensor"]


def test_other_presets(tmp_path: Path) -> None:
    for recipe, least in (("svdq-w4a8-r32-whole", 38), ("svdq-w4a4-r32", 20), ("w8a8", 38), ("w4a16", 38), ("w8a16", 38)):
        model = compressed("dit", recipe)
        inputs = inputs_of(model, "dit", seed=3)
        opened = session(export_onnx(model, tmp_path / recipe).path)
        assert decibel(run(opened, inputs), reference(model, inputs)) > least, recipe


def test_large_files_have_their_weights_beside_them(dit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquatint.export.LARGEST_FILE", 1000)
    path = export_onnx(dit, tmp_path).path
    assert (path.parent / "model.onnx_data").stat().st_size > path.stat().st_size
    tensors = [v.const_value for v in ir.load(path).graph.initializers.values()]
    offsets = [t.offset for t in tensors if isinstance(t, ir.ExternalTensor) and t.nbytes > 1 << 20]
    assert all(offset % 4096 == 0 for offset in offsets)
    inputs = inputs_of(dit, "dit", seed=3)
    assert decibel(run(session(path), inputs), reference(dit, inputs)) > 38


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_floats_are_widened(dtype: torch.dtype, tmp_path: Path) -> None:
    model, (args, kwargs) = build("dit")
    model.to(dtype)
    inputs = [a.to(dtype) if a.is_floating_point() else a for a in args]
    small = aquatint.optimize(model, hasty("svdq-w4a8-r32"), calibrate=lambda m: m(*inputs, **kwargs), target="reference")
    results = run(session(export_onnx(small, tmp_path).path), [a.float() if a.is_floating_point() else a for a in inputs])
    assert results[0].dtype == torch.float32
    assert decibel(results, reference(small, inputs)) > 30


def test_what_cannot_be_written_is_listed(tmp_path: Path) -> None:
    model = compressed("dit", "nvfp4-r32")
    with pytest.raises(ExportError, match=r"(?s)can't be written.*quantize.*nvfp4.*gemm.*nvfp4"):
        export_onnx(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_operator_that_the_exporter_does_not_know(dit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows all that a program may hold that we could think of: so it is made to forget one."""

    def forgetful(*args: object, **options: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("step 3/3") from KeyError(
            "No ONNX function found for aten.layer_norm.default"
        )

    monkeypatch.setattr(torch.onnx, "export", forgetful)
    with pytest.raises(
        ExportError, match=r"(?s)No ONNX function found for aten.layer_norm.*layer_norm.*: aten::layer_norm.default"
    ):
        export_onnx(dit, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_bad_choices(dit, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no 'w3'; known: w4-fold"):
        export_onnx(dit, tmp_path, weights="w3")
    with pytest.raises(ExportError, match=r"no 'column'; known: tensor, row"):
        export_onnx(dit, tmp_path, scales="column")
    old = replace(dit.program.interface, inputs=tuple(replace(s, example=()) for s in dit.program.interface.inputs))
    with pytest.raises(ExportError, match="compile it again"):
        onnx_model(replace(dit.program, interface=old))
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(dit, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExportError, match="is a file"):
        export_onnx(dit, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_pipeline_that_has_no_place_in_optimum(dit, tmp_path: Path) -> None:
    """What can't be written is told before anything is."""
    plain = SimpleNamespace(components={"transformer": torch.nn.Linear(2, 2)})
    with pytest.raises(ExportError, match=r"call aquatint.optimize\(pipeline\) first"):
        aquatint.export_pipeline(plain, tmp_path / "out")
    checked = SimpleNamespace(components={"transformer": dit, "safety_checker": torch.nn.Linear(2, 2)})
    with pytest.raises(ExportError, match=r"safety_checker is a Linear.*set pipeline.safety_checker = None"):
        aquatint.export_pipeline(checked, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_equal_bytes_twice(dit, tmp_path: Path) -> None:
    first, second = (export_onnx(dit, tmp_path / name).path.read_bytes() for name in "ab")
    assert first == second

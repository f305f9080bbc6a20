"""A plate draws what its module draws, where there is no torch; what can't be one says why."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import aquatint
from aquatint.compiler.errors import ArtifactError, ExportError, InputError
from aquatint.compiler.module import CompressedModule
from aquatint.runtime.cpu.native import KERNEL_SETS, kernel_set
from aquatint.runtime.plate import file

from .zoo import ZOO, build, tensors_of

pytestmark = pytest.mark.native

ROOT = Path(__file__).resolve().parent.parent
UNSERVED = {"wan": "aten::conv3d", "zimage": "aten::pad_sequence", "dc_decoder": "aten::conv2d"}


@functools.cache
def compressed(name: str, recipe: str = "svdq-w4a8-r32") -> tuple[CompressedModule, list[torch.Tensor], list[torch.Tensor]]:
    """A model of the zoo, a call of it, and what the model itself gives."""
    model, (args, kwargs) = build(name)
    with torch.no_grad():
        exact = tensors_of(model(*args, **kwargs))
    small = aquatint.optimize(model, recipe, calibrate=lambda m: m(*args, **kwargs))
    return small, small.program.interface.flatten(args, kwargs)[0], exact


def arrays(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [t.numpy() for t in tensors]


def off(found: np.ndarray, expected: torch.Tensor) -> float:
    return float((torch.from_numpy(found) - expected).norm() / expected.norm().clamp(min=1e-9))


@pytest.fixture(scope="module")
def dit() -> tuple[CompressedModule, list[torch.Tensor], list[torch.Tensor]]:
    return compressed("dit")


@pytest.mark.parametrize("name", ZOO)
def test_draws_as_its_module(name: str, tmp_path: Path) -> None:
    """Numpy rounds a sine or an exponential elsewhere than torch now and then, and a code that turns counts for more."""
    small, inputs, exact = compressed(name)
    if name in UNSERVED:
        with pytest.raises(ExportError, match=UNSERVED[name]):
            aquatint.export_plate(small, tmp_path / "m.plate")
        assert not list(tmp_path.iterdir())
        return
    made = aquatint.export_plate(small, tmp_path / "m.plate")
    assert made.nbytes == made.path.stat().st_size
    plate = aquatint.Plate(made.path, threads=2)
    first = plate(*arrays(inputs))
    for found, own, true in zip(first.values(), small.run(inputs), exact, strict=True):
        assert found.shape == true.shape
        assert off(found, own) <= max(1e-6, 0.2 * off(own.numpy(), true))
    others = [i + 1 if i.is_floating_point() else i for i in inputs]
    assert not np.array_equal(next(iter(plate(*arrays(others)).values())), next(iter(first.values())))
    for again, before in zip(plate(*arrays(inputs)).values(), first.values(), strict=True):
        assert np.array_equal(again, before)


@pytest.mark.parametrize("recipe", ["svdq-w4a4-r32", "w8a8", "w8a16", "w4a16"])
def test_every_format(recipe: str, tmp_path: Path) -> None:
    small, inputs, exact = compressed("dit", recipe)
    plate = aquatint.Plate(aquatint.export_plate(small, tmp_path / "m.plate").path)
    (found,) = plate(*arrays(inputs)).values()
    (own,) = small.run(inputs)
    assert off(found, own) <= max(1e-5, 0.2 * off(own.numpy(), exact[0]))


@pytest.mark.parametrize("name", KERNEL_SETS)
def test_every_set_of_kernels(name: str, tmp_path: Path, dit: Any) -> None:
    small, inputs, exact = dit
    if kernel_set(name) is None:
        with pytest.raises(ExportError, match=f"no kernels {name} here"):
            aquatint.export_plate(small, tmp_path / "m.plate", kernels=name)
        return
    made = aquatint.export_plate(small, tmp_path / "m.plate", kernels=name)
    (found,) = aquatint.Plate(made.path)(*arrays(inputs)).values()
    assert made.kernels == name
    assert off(found, exact[0]) < 1.1 * off(small.run(inputs)[0].numpy(), exact[0])


def test_runs_without_torch_and_by_as_many_threads_as_one_likes(tmp_path: Path) -> None:
    small, inputs, _ = compressed("sd")
    aquatint.export_plate(small, tmp_path / "m.plate")
    np.savez(tmp_path / "inputs.npz", *arrays(inputs))
    code = """
import sys
import numpy as np
import aquatint
given = np.load("inputs.npz").values()
for threads in (1, 2, 5):
    plate = aquatint.Plate("m.plate", threads)
    np.save(f"{threads}.npy", [plate(*given)["sample"] for _ in range(4)])
print([m for m in ("torch", "diffusers", "safetensors", "rich") if m in sys.modules])
"""
    script = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    here = aquatint.Plate(tmp_path / "m.plate")(*arrays(inputs))["sample"]
    for threads in (1, 2, 5):
        for found in np.load(tmp_path / f"{threads}.npy"):
            assert np.array_equal(found, here)


def test_other_sizes(tmp_path: Path) -> None:
    small, (image, _), _ = compressed("unet2d")
    batch = str(small.program.interface.inputs[0].shape[0])
    made = aquatint.export_plate(small, tmp_path / "m.plate", sizes={"batch": 3})
    assert made.inputs == {"sample": (3, 3, 16, 16), "timestep": (3,)}
    three = torch.cat([image, image[:1] + 1])
    plate = aquatint.Plate(made.path)
    (found,) = plate(three.numpy(), timestep=5).values()  # one time for all
    assert off(found, small(three, 5).sample) < 0.05
    with pytest.raises(InputError, match=r"sample has shape \[2, 3, 16, 16\]; the plate was made for float32 \[3, 3, 16, 16\]"):
        plate(image.numpy(), 5)
    with pytest.raises(ExportError, match=f"many=3: the sizes that are free are named in sample \\[{batch}"):
        aquatint.export_plate(small, made.path, sizes={"many": 3})
    assert aquatint.Plate(made.path).name == "UNet2DModel"


def test_a_text_is_followed_once(tmp_path: Path) -> None:
    small, inputs, _ = compressed("sd")
    plate = aquatint.Plate(aquatint.export_plate(small, tmp_path / "m.plate").path)
    before, _ = plate._parts
    runs: list[int] = []
    before.steps.append(lambda: runs.append(1))
    image, time, text = arrays(inputs)
    first = plate(image, time, text)["sample"]
    plate(image + 1, time, text)
    assert len(runs) == 1
    changed = text.copy()
    other = plate(image, time, changed + 1)["sample"]
    changed += 1  # what is remembered are the numbers, not the array
    assert np.array_equal(plate(image, time, changed)["sample"], other)
    assert np.array_equal(plate(image, time, text)["sample"], first)  # two are, with and without what is wanted
    assert len(runs) == 2


def test_a_text_whose_run_was_cut_short_is_followed_again(tmp_path: Path) -> None:
    small, inputs, _ = compressed("sd")
    plate = aquatint.Plate(aquatint.export_plate(small, tmp_path / "m.plate").path)
    image, time, text = arrays(inputs)
    first = plate(image, time, text)["sample"]
    plate(image, time, text + 1)
    plate(image, time, text + 2)

    def interrupted() -> None:
        raise KeyboardInterrupt

    plate._parts[0].steps.insert(3, interrupted)
    with pytest.raises(KeyboardInterrupt):
        plate(image, time, text)
    plate._parts[0].steps.remove(interrupted)
    assert np.array_equal(plate(image, time, text)["sample"], first)


def test_what_can_be_no_plate(tmp_path: Path) -> None:
    path, x = tmp_path / "m.plate", torch.randn(2, 8, 64)
    layers = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.Tanh()))).half()
    half = aquatint.optimize(layers, "w8a16", calibrate=lambda m: m(x.half()))
    with pytest.raises(ExportError, match=r"computes in torch\.float16, which a plate does not: load the model in float32"):
        aquatint.export_plate(half, path)
    small, _, _ = compressed("sd")
    with pytest.raises(InputError, match="the program can't run on"):
        aquatint.export_plate(small, path, sizes={str(small.program.interface.inputs[0].shape[2]): 15})
    assert not list(tmp_path.iterdir())


def test_faulty_calls(tmp_path: Path, dit: Any) -> None:
    small, inputs, _ = dit
    plate = aquatint.Plate(aquatint.export_plate(small, tmp_path / "m.plate").path)
    image, time, label = arrays(inputs)
    with pytest.raises(InputError, match="class_labels is missing; the plate was made for int64"):
        plate(image, time)
    with pytest.raises(InputError, match="text given; the plate takes hidden_states, timestep, class_labels"):
        plate(image, time, label, text=1)
    with pytest.raises(InputError, match="4 given"):
        plate(image, time, label, 1)
    with pytest.raises(InputError, match="class_labels is float32; the plate was made for int64"):
        plate(image, time, label.astype(np.float32))
    with pytest.raises(InputError, match=r"hidden_states given; the plate takes .* each once"):
        plate(image, time, label, hidden_states=image)
    with pytest.raises(InputError, match="no such entry in a table"):
        plate(image, time, label - 100)
    assert np.isfinite(plate(image.astype(np.float64), time, label)["sample"]).all()


def test_faulty_files(tmp_path: Path, dit: Any) -> None:
    path = tmp_path / "m.plate"
    aquatint.export_plate(dit[0], path)
    program, whole = file.read(path)[0], path.read_bytes()
    with safe_open(path, "np") as opened:
        assert opened.keys() == ["constants"]
        assert opened.metadata()["format"] == file.FORMAT
    faults = {
        "was cut short": whole[:-1],
        "is no plate": b"no plate at all, but long enough",
        "of version 0": whole.replace(b'"version": "1"', b'"version": "0"'),
        "made for the kernels sse": whole.replace(program["kernels"].encode(), b"sse".ljust(len(program["kernels"]))),
        "no kernel for": whole.replace(b"aq_quantize", b"aq_quantise"),
    }
    for told, content in faults.items():
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=told):
            aquatint.Plate(path)
    with pytest.raises(ArtifactError, match="can't be read"):
        aquatint.Plate(tmp_path / "none.plate")
    with pytest.raises(ExportError, match="is a folder"):
        aquatint.export_plate(dit[0], tmp_path)


def test_addresses_stay_within_the_memory(tmp_path: Path, dit: Any) -> None:
    path = tmp_path / "m.plate"
    aquatint.export_plate(dit[0], path)
    program, constants = file.read(path)
    kernels = [s["call"] for s in program["parts"][0]["steps"] if s.get("kernel") == "aq_product"]
    for place in ([0, len(constants) + 64], [1, -64], [7, 0]):
        kernels[0]["weight"] = place
        file.write(tmp_path / "bad.plate", program, [constants], len(constants))
        with pytest.raises(ArtifactError, match="make it anew"):
            aquatint.Plate(tmp_path / "bad.plate")

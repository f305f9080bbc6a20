"""Peers that run a model from files: stored by one process, loaded and run by another, whose memory is what running takes.

python -m benchmarks.peers.stored store NAME CASE FOLDER      # exports or compresses the case's model into FOLDER
python -m benchmarks.peers.stored run NAME FOLDER THREADS     # loads it, runs it three times, prints its memory as JSON
python -m benchmarks.peers.stored serve NAME FOLDER THREADS   # loads it, and times as many calls as each line of its input says
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from benchmarks.peers.contenders import Task, hasty, onnx_model, openvino_model


@dataclass(frozen=True)
class Stored:
    """store(task, folder) writes files; load(folder, threads) gives what runs them on arrays. It imports what it needs.

    library  what runs them, where the environment has not its name
    """

    name: str
    environment: str | None
    store: Callable[[Task, Path], None]
    load: Callable[[Path, int], Callable[[list[Any]], Any]]
    library: str = "torch"


def store_torch(task: Task, folder: Path) -> None:
    task.module.save_pretrained(folder)
    (folder / "class").write_text(type(task.module).__name__)


def load_torch(folder: Path, threads: int) -> Callable[[list[Any]], Any]:
    import diffusers
    import torch

    torch.set_num_threads(threads)
    module = getattr(diffusers, (folder / "class").read_text()).from_pretrained(folder)
    return torch.no_grad()(lambda arrays: module(*map(torch.from_numpy, arrays)))


def ours(task: Task) -> Any:
    import aquatint

    recipe = aquatint.recipe_named("svdq-w4a8-r32")
    return aquatint.optimize(task.module, hasty(recipe) if task.hasty else recipe, calibrate=lambda m: m(*task.calibration))


def store_ours(task: Task, folder: Path) -> None:
    ours(task).save(folder / "model.aq")


def load_ours(folder: Path, threads: int) -> Callable[[list[Any]], Any]:
    import torch

    import aquatint

    torch.set_num_threads(threads)
    small = aquatint.load(folder / "model.aq")
    return lambda arrays: small(*map(torch.from_numpy, arrays))


def store_plate(task: Task, folder: Path) -> None:
    import aquatint

    small = ours(task)
    specs, given = small.program.interface.inputs, small.program.interface.flatten(task.inputs, {})[0]
    sizes = {n: size for s, t in zip(specs, given, strict=True) for n, size in zip(s.shape, t.shape, strict=True)}
    aquatint.export_plate(small, folder / "model.plate", sizes={n: size for n, size in sizes.items() if isinstance(n, str)})


def load_plate(folder: Path, threads: int) -> Callable[[list[Any]], Any]:
    import aquatint

    plate = aquatint.Plate(folder / "model.plate", threads)
    return lambda arrays: plate(*arrays)


def store_openvino(task: Task, folder: Path, *, weights: str) -> None:
    import openvino as ov

    ov.save_model(openvino_model(task, weights), folder / "model.xml", compress_to_fp16=False)


def load_openvino(folder: Path, threads: int, *, group: int) -> Callable[[list[Any]], Any]:
    import openvino as ov

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    options |= {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group} if group else {}
    request = ov.Core().compile_model(folder / "model.xml", "CPU", options).create_infer_request()
    return lambda arrays: request.infer(arrays)[0]


def store_onnx(task: Task, folder: Path, *, weights: str) -> None:
    onnx_model(task, weights, folder)


def load_onnx(folder: Path, threads: int) -> Callable[[list[Any]], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def store_our_onnx(task: Task, folder: Path) -> None:
    import aquatint

    small = aquatint.optimize(task.module, "w8a8", calibrate=lambda m: m(*task.calibration))
    aquatint.export_onnx(small, folder, weights="w8a8").path.rename(folder / "model.onnx")


STORED = {
    s.name: s
    for s in (
        Stored("torch fp32", None, store_torch, load_torch),
        Stored("OpenVINO fp32", "openvino", partial(store_openvino, weights="fp32"), partial(load_openvino, group=0)),
        Stored("OpenVINO int8", "openvino", partial(store_openvino, weights="int8"), partial(load_openvino, group=0)),
        Stored("OpenVINO u4", "openvino", partial(store_openvino, weights="u4"), partial(load_openvino, group=64)),
        Stored("onnxruntime fp32", "onnxruntime", partial(store_onnx, weights="fp32"), load_onnx),
        Stored("onnxruntime dynamic int8", "onnxruntime", partial(store_onnx, weights="int8"), load_onnx),
        Stored("onnxruntime MatMulNBits", "onnxruntime", partial(store_onnx, weights="nbits"), load_onnx),
        Stored("aquatint W4A8 r32", None, store_ours, load_ours),
        Stored("aquatint W4A8 r32, as a plate", None, store_plate, load_plate, "numpy"),
        Stored("aquatint W8A8, run by onnxruntime", "onnxruntime", store_our_onnx, load_onnx),
    )
}


def store(name: str, case_name: str, folder: Path) -> None:
    import numpy as np
    import torch

    from benchmarks.peers.cases import CASES

    case = CASES[case_name]
    module, inputs = case.build(1)
    with torch.no_grad():
        STORED[name].store(Task(module, inputs, case.build(2)[1], case.macs, case.hasty), folder)
    np.savez(folder / "inputs.npz", *(t.numpy() for t in inputs))


def run(name: str, folder: Path, threads: int) -> dict[str, float]:
    """Megabytes: at the highest, at the end, and before the model was loaded, with the library imported alone.

    And the seconds that pass from before the library, and numpy, are imported until there is a first result.
    """
    began = time.perf_counter()
    import numpy as np

    arrays = list(np.load(folder / "inputs.npz").values())
    __import__(STORED[name].environment or STORED[name].library)
    before = memory("VmRSS")
    call = STORED[name].load(folder, threads)
    call(arrays)
    took = time.perf_counter() - began
    for _ in range(2):
        call(arrays)
    return {"peak": memory("VmHWM"), "resident": memory("VmRSS"), "library": before, "first": took}


def serve(name: str, folder: Path, threads: int, answers: TextIO) -> None:
    """As benchmarks.peers.worker does it, but from files."""
    import numpy as np

    from benchmarks.peers.worker import say, take_turns

    arrays = list(np.load(folder / "inputs.npz").values())
    call = STORED[name].load(folder, threads)
    for _ in range(3):
        call(arrays)
    say(answers, {})
    take_turns(lambda: call(arrays), answers)


def memory(field: str) -> float:
    return int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1e3


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "store":
        store(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    elif sys.argv[1] == "serve":
        serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.stdout)
    else:
        print(json.dumps(run(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))

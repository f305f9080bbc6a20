"""The contenders: each takes a module and its inputs, and returns what runs it on those inputs.

`environment` is the folder under build/peers that `make peers` fills; None is the project's own. Peers import late, as each
is installed in its own environment alone.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

Run = Callable[[], Any]
INTEGERS, FLOATS, TILES = range(3)  # kinds of aq_ceiling, csrc/cpu/ceiling.h


@dataclass(frozen=True)
class Task:
    """What to run: the module on `inputs`; `calibration` are other inputs of the same kind; the rest as in the case."""

    module: Any
    inputs: tuple[Any, ...]
    calibration: tuple[Any, ...]
    macs: int = 0
    hasty: bool = False


@dataclass(frozen=True)
class Contender:
    """prepare(task) -> run(), which returns the output; a ceiling returns nothing."""

    name: str
    environment: str | None
    prepare: Callable[[Task], Run]


def first(output: Any) -> Any:
    """The tensor in what a diffusers model returns."""
    return output[0] if isinstance(output, tuple) or hasattr(output, "sample") else output


def eager(task: Task) -> Run:
    return lambda: first(task.module(*task.inputs))


def bfloat16(task: Task) -> Run:
    """The model and its inputs rounded: where AMX is, oneDNN multiplies by tiles."""
    import copy

    import torch

    module = copy.deepcopy(task.module).bfloat16()
    inputs = [t.bfloat16() if t.is_floating_point() else t for t in task.inputs]
    return lambda: first(module(*inputs)).to(torch.float32)


def compiled(task: Task) -> Run:
    import torch

    fast = torch.compile(task.module)
    return lambda: first(fast(*task.inputs))


def torchao(task: Task) -> Run:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    holder = _holder(task.module)
    quantize_(holder, Int8DynamicActivationInt8WeightConfig())
    return compiled(replace(task, module=holder))


def bitsandbytes(task: Task) -> Run:
    import bitsandbytes as bnb
    import torch

    holder = _holder(task.module)
    for parent in list(holder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                small = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, child.bias is not None,
                    compute_dtype=torch.float32, quant_type="nf4",
                )  # fmt: skip
                small.load_state_dict(child.state_dict())
                setattr(parent, name, small.to("cpu"))
    return eager(replace(task, module=holder))


def quanto(task: Task) -> Run:
    from optimum.quanto import freeze, qint4, quantize

    holder = _holder(task.module)
    quantize(holder, weights=qint4)
    freeze(holder)
    return eager(replace(task, module=holder))


def openvino_model(task: Task, weights: str) -> Any:
    """fp32; int8 weights and activations by nncf.quantize; or 4-bit weights."""
    import nncf
    import openvino as ov
    import torch

    model = ov.convert_model(torch.export.export(task.module, task.inputs, strict=False))
    if weights == "int8":
        calls = nncf.Dataset([[t.numpy() for t in task.calibration]])
        return nncf.quantize(model, calls, subset_size=1, model_type=nncf.ModelType.TRANSFORMER)
    if weights == "u4":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=64, ratio=1.0, all_layers=True)
    return model


def openvino(task: Task, *, weights: str) -> Run:
    """`openvino_model`; with 4-bit weights, activations are quantized on the fly."""
    import openvino as ov
    import torch

    precision = "bf16" if weights == "bf16" else "f32"
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
    if weights == "u4":
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 64
    arrays = [t.numpy() for t in task.inputs]
    request = ov.Core().compile_model(openvino_model(task, weights), "CPU", options).create_infer_request()
    return lambda: torch.from_numpy(request.infer(arrays, share_inputs=True)[0])


def onnx_model(task: Task, weights: str, folder: Path) -> Path:
    """The file model.onnx in `folder`: fp32; quantize_dynamic; or MatMulNBits with 8-bit activations (accuracy_level 4)."""
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    path, exact = folder / "model.onnx", folder / "fp32.onnx"
    large = sum(p.nbytes for p in task.module.parameters()) > 1.5e9  # one file of ONNX ends at 2 GB
    exact = path if weights == "fp32" else exact
    torch.onnx.export(task.module, task.inputs, exact, dynamo=True, external_data=large, verbose=False)
    if weights == "int8":
        quantize_dynamic(exact, path, weight_type=QuantType.QInt8, use_external_data_format=large)
    elif weights == "nbits":
        quantizer = MatMulNBitsQuantizer(onnx.load(exact), block_size=64, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        model = quantizer.model.model  # pyright: ignore[reportAttributeAccessIssue]
        onnx.save(model, path, save_as_external_data=large)
    return path


def onnxruntime(task: Task, *, weights: str) -> Run:
    import onnxruntime as ort
    import torch

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = onnx_model(task, weights, Path(folder))
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), task.inputs, strict=True)}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def ours(task: Task, *, recipe: str, rank: int = 32, fused: bool = True, joined: bool = True) -> Run:
    """A preset; a module of plain layers is treated too, though a preset keeps what is first and last."""
    import torch

    import aquatint

    chosen = aquatint.recipe_named(recipe)
    rules = chosen.rules
    if isinstance(task.module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Sequential)):
        rules = tuple(rule for rule in rules if rule.match in ("*", "@convolution"))
    rules = tuple(r if r.treatment is None else _with_rank(r, rank) for r in rules)
    left_out = {*(() if rank else ("lowrank",)), *(() if fused else ("fuse",))}
    chosen = replace(chosen, passes=tuple(p for p in chosen.passes if p.name not in left_out), rules=rules)
    chosen = hasty(chosen) if task.hasty else chosen
    small = aquatint.optimize(_holder(task.module), chosen, calibrate=lambda m: m(*task.calibration))
    small = small if joined else small.on(apart(small.target.kernels))
    return lambda: first(small(*task.inputs))


def apart(kernels: Any) -> Any:
    """The CPU target without kernels for two operators."""
    from aquatint.runtime.cpu.target import Cpu

    class Apart(Cpu):
        def joins(self, columns: int, format: str) -> bool:
            return False

    return Apart(kernels)


def hasty(recipe: Any) -> Any:
    """The recipe without its searches."""
    options = {"lowrank": {"alternations": 1}, "quantize": {"method": "rtn"}}
    passes = (replace(p, **options.get(p.name, {})) for p in recipe.passes if p.name != "smooth")
    return replace(recipe, passes=tuple(passes))


def _with_rank(rule: Any, rank: int) -> Any:
    return replace(rule, treatment=replace(rule.treatment, rank=rule.treatment.rank * rank // 32))


def ceiling(task: Task, *, kind: int) -> Run:
    """As many multiply-adds as the case has, on registers alone, on every thread."""
    import torch

    from aquatint.runtime.cpu.native import best_kernel_set

    kernels = best_kernel_set()
    assert kernels is not None, "the compiled kernels are not built"
    assert kind != TILES or kernels.tiles, "this processor has no AMX"
    threads = torch.get_num_threads()
    loop = partial(kernels.library.aq_ceiling, kernels.table, kind)
    rounds = int(task.macs / threads / (loop(1000) / 1000))

    def run() -> None:
        others = [threading.Thread(target=loop, args=(rounds,)) for _ in range(threads - 1)]
        for other in others:
            other.start()
        loop(rounds)
        for other in others:
            other.join()

    return run


def _holder(module: Any) -> Any:
    """A leaf in a container, so that it has a name and can be replaced."""
    import torch

    return torch.nn.Sequential(module) if not list(module.children()) else module


CONTENDERS = {
    c.name: c
    for c in (
        Contender("torch fp32", None, eager),
        Contender("torch.compile fp32", None, compiled),
        Contender("torch bf16", None, bfloat16),
        Contender("torchao int8 + compile", "torchao", torchao),
        Contender("OpenVINO fp32", "openvino", partial(openvino, weights="fp32")),
        Contender("OpenVINO bf16", "openvino", partial(openvino, weights="bf16")),
        Contender("OpenVINO int8", "openvino", partial(openvino, weights="int8")),
        Contender("OpenVINO u4", "openvino", partial(openvino, weights="u4")),
        Contender("onnxruntime fp32", "onnxruntime", partial(onnxruntime, weights="fp32")),
        Contender("onnxruntime dynamic int8", "onnxruntime", partial(onnxruntime, weights="int8")),
        Contender("onnxruntime MatMulNBits", "onnxruntime", partial(onnxruntime, weights="nbits")),
        Contender("bitsandbytes NF4", "bitsandbytes", bitsandbytes),
        Contender("quanto int4", "quanto", quanto),
        Contender("aquatint W4A8 r32", None, partial(ours, recipe="svdq-w4a8-r32")),
        Contender("aquatint W4A8 r32, whole", None, partial(ours, recipe="svdq-w4a8-r32-whole")),
        Contender("aquatint W4A8 r32, whole, apart", None, partial(ours, recipe="svdq-w4a8-r32-whole", joined=False)),
        Contender("aquatint W4A8 r32, unfused", None, partial(ours, recipe="svdq-w4a8-r32", fused=False)),
        Contender("aquatint W4A8 r0", None, partial(ours, recipe="svdq-w4a8-r32", rank=0)),
        Contender("aquatint W4A8 r0, whole", None, partial(ours, recipe="svdq-w4a8-r32-whole", rank=0)),
        Contender("aquatint W4A4 r32", None, partial(ours, recipe="svdq-w4a4-r32")),
        Contender("aquatint W8A8", None, partial(ours, recipe="w8a8")),
        Contender("bare integer loop", None, partial(ceiling, kind=INTEGERS)),
        Contender("bare FMA loop", None, partial(ceiling, kind=FLOATS)),
        Contender("bare tile loop", None, partial(ceiling, kind=TILES)),
    )
}

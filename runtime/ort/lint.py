"""What makes an ONNX file slow in onnxruntime on a CPU: rules over the graph that really runs, and each node's time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

MANY_ROWS = 32  # from here on MatMulNBits is slower than plain floats (docs/onnx.md)
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
          "tensor(bool)": np.bool_, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """`found(node, shapes)`: does the rule hold for a node of the optimized graph? `shapes` are its inputs' in the run.

    written: it holds only for nodes that stand in the file, not for those that onnxruntime put in
    """

    name: str
    found: Callable[[ir.Node, list[tuple[int, ...]]], bool]
    why: str
    mend: str
    written: bool = False


@dataclass(frozen=True)
class Finding:
    """A node that a rule holds for: what it took, in milliseconds of a run and as a share of it."""

    rule: Rule
    node: str
    ms: float
    share: float


@dataclass(frozen=True)
class Lint:
    """Findings, the dearest first; the time of a run; and time by operator."""

    findings: tuple[Finding, ...]
    ms: float
    operators: Mapping[str, float]


class LintError(Exception):
    """The file can't be judged; says why."""


def _feeds(node: ir.Node, *kinds: str) -> bool:
    return any(user.op_type in kinds for output in node.outputs for user in output.consumers())


def _is_weight(node: ir.Node) -> bool:
    """Does a DequantizeLinear widen a constant?"""
    source = node.inputs[0]
    return source is not None and source.const_value is not None


def _widened_for(*kinds: str) -> Callable[[ir.Node, list[tuple[int, ...]]], bool]:
    def found(node: ir.Node, shapes: list[tuple[int, ...]]) -> bool:
        return node.op_type == "DequantizeLinear" and _is_weight(node) and _feeds(node, *kinds)

    return found


def _transposed_weight(node: ir.Node, shapes: list[tuple[int, ...]]) -> bool:
    if node.op_type != "DequantizeLinear" or not _is_weight(node):
        return False
    users = [user for output in node.outputs for user in output.consumers()]
    turned = any(u.op_type == "Transpose" and _feeds(u, "MatMul", "Gemm", "FusedMatMul") for u in users)
    return turned or any(u.op_type == "FusedMatMul" for u in users)


def _there_and_back(node: ir.Node, shapes: list[tuple[int, ...]]) -> bool:
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return node.op_type == "DequantizeLinear" and before is not None and before.op_type == "QuantizeLinear"


def _rows(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-1]))


def _is(*kinds: str) -> Callable[[ir.Node, list[tuple[int, ...]]], bool]:
    return lambda node, shapes: node.op_type in kinds


def _scores_in_memory(node: ir.Node, shapes: list[tuple[int, ...]]) -> bool:
    """A softmax between two products, over more scores than a cache of 1 MB holds."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    products = ("MatMul", "FusedMatMul", "Gemm")
    inside = node.op_type == "Softmax" and before is not None and before.op_type in products and _feeds(node, *products)
    return inside and bool(shapes) and int(np.prod(shapes[0])) > 1 << 18


RULES = (
    Rule(
        "quantized softmax", _is("QLinearSoftmax"), "softmax over bytes is slower than over floats, and loses small weights",
        "leave attention in floating point: exclude Softmax and the two products of attention when you quantize",
    ),
    Rule(
        "integer convolution", _is("ConvInteger"), "ConvInteger has no fast kernel; with signed weights it is a plain loop",
        "quantize convolutions with fixed scales (QDQ), which becomes QLinearConv: aquatint export, or quantize_static",
    ),
    Rule(
        "weight widened for a convolution", _widened_for("Conv", "FusedConv", "ConvTranspose"),
        "the weight is dequantized in every run, and the convolution is done in floats",
        "quantize the input as well, which becomes QLinearConv; or Cast and Mul in place of DequantizeLinear: folded at load",
    ),
    Rule(
        "weight transposed after it is widened", _transposed_weight,
        "DequantizeLinear, Transpose, MatMul is not fused: the weight is dequantized in every run",
        "store the weight as [K, N] with its scales along axis 0, so that MatMul reads it as it is",
    ),
    Rule(
        "weight widened for a product", _widened_for("MatMul", "Gemm"),
        "the weight is dequantized in every run",
        "4 bits by blocks along axis 0 and a MatMul: onnxruntime makes MatMulNBits of them",
    ),
    Rule(
        "narrow weights for many rows",
        lambda node, shapes: node.op_type == "MatMulNBits" and bool(shapes) and _rows(shapes[0]) >= MANY_ROWS,
        f"MatMulNBits is made for few rows; from {MANY_ROWS} on plain floats are about as fast",
        "8-bit products: aquatint export --weights w4-fold keeps 4 bits in the file, or quantize_dynamic",
    ),
    Rule(
        "to bytes and back", _there_and_back, "floats are made bytes and floats again, with no product of bytes between",
        "quantize the inputs of products alone: op_types_to_quantize=['Conv', 'MatMul', 'Gemm'] in quantize_static", True,
    ),
    Rule(
        "attention in pieces", _scores_in_memory, "all scores are written to memory between the two products",
        "com.microsoft.MultiHeadAttention does it by blocks: aquatint export, or onnxruntime.transformers.optimizer",
    ),
    Rule(
        "half floats", lambda node, shapes: node.op_type == "Cast" and "PrecisionFreeCast" in str(node.name),
        "most of the CPU's kernels know float32 only: the data goes back and forth", "export the model in float32",
    ),
)  # fmt: skip


def unsupported(path: Path) -> list[str]:
    """A line for each node that onnxruntime's CPU provider has no kernel for."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[attr-defined]

    kernels = {(k.domain, k.op_name) for k in state.get_all_opkernel_def() if k.provider == "CPUExecutionProvider"}
    try:
        graph = ir.load(path).graph
    except Exception as error:  # protobuf has its own kinds
        raise LintError(f"{path} is no ONNX file: {error}") from error
    lines = []
    for node in graph:
        if (node.domain, node.op_type) in kernels or _is_function(onnx, node):
            continue
        lines.append(f"{node.name or node.outputs[0].name}: {node.domain or 'ai.onnx'}.{node.op_type}")
    return lines


def _is_function(onnx: Any, node: ir.Node) -> bool:
    """Is the operator defined by others?"""
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return False
    return schema.has_function or schema.has_context_dependent_function


def lint(path: Path, sizes: Mapping[str, int], threads: int = 0, runs: int = 10) -> Lint:
    """Load the file with all optimizations, run it on random inputs, and hold every node that ran against the rules.

    sizes    for the free dimensions, by their names in the file; others are guessed
    Raises LintError with the nodes that have no kernel, and where the file can't be loaded or run.
    """
    if lines := unsupported(path):
        raise LintError("\n  ".join([f"onnxruntime's CPU provider has no kernel for {len(lines)} nodes of {path}:", *lines]))
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        free: dict[str, int] = {}
        try:
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            free = _free(session.get_inputs(), sizes)
            inputs = {value.name: _drawn(value, free) for value in session.get_inputs()}
            for _ in range(runs + 1):
                session.run(None, inputs)
        except Exception as error:
            raise LintError(f"{path}: {str(error).splitlines()[0]}{_hint(free, error)}") from error
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = ir.load(options.optimized_model_filepath).graph
    written = {node.name for node in ir.load(path).graph}
    times, shapes, total = _measured(events, runs)
    findings = [
        Finding(rule, str(node.name), times.get(str(node.name), 0.0), times.get(str(node.name), 0.0) / total)
        for node in graph
        for rule in RULES
        if (node.name in written or not rule.written) and rule.found(node, shapes.get(str(node.name), []))
    ]
    operators: dict[str, float] = {}
    for node in graph:
        operators[node.op_type] = operators.get(node.op_type, 0.0) + times.get(str(node.name), 0.0)
    return Lint(tuple(sorted(findings, key=lambda f: -f.ms)), total, operators)


def _measured(events: list[dict[str, Any]], runs: int) -> tuple[dict[str, float], dict[str, list[tuple[int, ...]]], float]:
    """(milliseconds a run by node, shapes of its inputs, of the whole run), the first run left out."""
    whole = [e for e in events if e.get("name") == "model_run"][1:]
    times: dict[str, float] = {}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= whole[0]["ts"]:
            name = event["name"].removesuffix("_kernel_time")
            times[name] = times.get(name, 0.0) + event["dur"] / 1e3 / runs
            shapes[name] = [tuple(s) for one in event["args"].get("input_type_shape", []) for s in one.values()]
    return times, shapes, sum(e["dur"] for e in whole) / 1e3 / len(whole)


def _free(values: Sequence[Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """The free dimensions by name: as given, or 2 in the first place, 77 in the second of three, else 32."""
    guessed: dict[str, int] = {}
    for value in values:
        for place, size in enumerate(value.shape):
            guess = 2 if place == 0 else 77 if len(value.shape) == 3 and place == 1 else 32
            if not isinstance(size, int):
                guessed.setdefault(_name(value, place), guess)
    return {name: sizes.get(name, guess) for name, guess in guessed.items()}


def _name(value: Any, place: int) -> str:
    """What a free dimension is called, or `input[place]`."""
    return value.shape[place] or f"{value.name}[{place}]"


def _drawn(value: Any, free: Mapping[str, int]) -> np.ndarray:
    """A random input."""
    if value.type not in DTYPES:
        raise LintError(f"input {value.name} is a {value.type}, which can't be drawn")
    shape = [size if isinstance(size, int) else free[_name(value, place)] for place, size in enumerate(value.shape)]
    random = np.random.default_rng(0)
    dtype = DTYPES[value.type]
    drawn = random.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.ones(shape)
    return np.asarray(drawn, dtype)


def _hint(free: Mapping[str, int], error: Exception) -> str:
    if isinstance(error, LintError) or not free:
        return ""
    taken = ", ".join(f"{name}={size}" for name, size in free.items())
    return f"\n  Free dimensions were taken as {taken}: set others with --size NAME=N"

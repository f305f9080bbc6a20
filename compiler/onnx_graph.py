"""A program as an ONNX model, in which our operators stand under their own names for a target to lower.

PyTorch's exporter translates the ATen operators. A node of ours becomes one node of the domain `aquatint`: its tensors are its
inputs in the order of the operator's schema, all else is in its attributes. Weights keep their names.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from aquatint.compiler.by_step import steps_of
from aquatint.compiler.errors import ExportError
from aquatint.compiler.formats import format_named
from aquatint.compiler.program import Program
from aquatint.runtime import ops
from aquatint.runtime.ops import ATTENTION, DOMAIN, meanings

if TYPE_CHECKING:
    import onnx_ir as ir

HALVES = (torch.float16, torch.bfloat16)
OPSET = 21  # the first with 4-bit integers and scales by blocks


def onnx_graph(program: Program) -> ir.Model:
    """`program` as an onnx_ir model with opset 21; its inputs and outputs are called as `interface_names` says.

    Half floats become float32, in and out: few kernels of a CPU compute in less.
    Raises ExportError for an artifact that does not say its example's sizes, and with the nodes that have no translation.
    """
    if any(not spec.example and spec.shape for spec in program.interface.inputs):
        raise ExportError(f"{program.name} does not say the sizes that it was captured with: compile it again")
    if steps_of(program.graph):
        raise ExportError(f"{program.name} has branches by step, of which a file would need one: distil it without by_step")
    program = _in_float32(program)
    examples = tuple(torch.zeros(spec.example, dtype=getattr(torch, spec.dtype)) for spec in program.interface.inputs)
    free = tuple({i: Dim.AUTO for i, s in enumerate(spec.shape) if isinstance(s, str)} for spec in program.interface.inputs)
    traceable = _Traceable(program)
    with torch.no_grad(), _quiet():
        exported = torch.export.export(traceable, examples, dynamic_shapes=(free,), strict=False)
        _pair_products(exported.graph)
        exported.graph.eliminate_dead_code()
        try:
            translated = torch.onnx.export(exported, opset_version=OPSET, dynamo=True, verbose=False, optimize=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(_untranslated(program, error)) from error
        assert translated
        model = translated.model
        _tidy(model)
    _name(model, program, traceable.places)
    return model


def _tidy(model: ir.Model) -> None:
    """What the exporter's own optimization does, but for its rewriting, which takes x + 1e-15 for x and leaves 0 / 0."""
    from onnx_ir.passes import Sequential, common
    from onnxscript.optimizer import fold_constants

    common.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def interface_names(program: Program) -> tuple[list[str], list[str]]:
    """What inputs and outputs are called: inputs by their path in the call, outputs with `out_` before their field."""
    tree, count = program.interface.output, len(program.graph.output_node().args[0])  # type: ignore[arg-type]
    fields = list(tree.get("items", {})) if tree["kind"] in ("class", "dict") else []
    fields = fields if len(fields) == count else [str(i) for i in range(count)]
    return [spec.path for spec in program.interface.inputs], [f"out_{field}" for field in fields]


def _in_float32(program: Program) -> Program:
    """The same program with every half float widened: weights, conversions, inputs."""
    wide = program.copy()
    for name, weight in program.weights.items():
        if weight.dtype in HALVES:
            wide.weights[name] = weight.float()
    for node in wide.graph.nodes:
        node.args, node.kwargs = _widened((node.args, node.kwargs))
    inputs = (replace(s, dtype="float32") if getattr(torch, s.dtype) in HALVES else s for s in program.interface.inputs)
    return replace(wide, interface=replace(program.interface, inputs=tuple(inputs)))


def _widened(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_widened, value))
    if isinstance(value, dict):
        return {k: _widened(v) for k, v in value.items()}
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value


class _Traceable(nn.Module):
    """The program as torch.export reads it. `places` are the names of its weights here."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.graph = program.graph
        self.places = {name: f"weight_{i}" for i, name in enumerate(program.weights)}
        for name, place in self.places.items():
            self.register_buffer(place, program.weights[name])

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[fx.Node, Any] = dict(zip((n for n in self.graph.nodes if n.op == "placeholder"), inputs, strict=True))
        for node in self.graph.nodes:
            if node.op == "get_attr":
                values[node] = getattr(self, self.places[str(node.target)])
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # type: ignore[misc]
                values[node] = _called(node.target, args, kwargs)
        return [values[n] for n in self.graph.output_node().args[0]]  # type: ignore[union-attr]


def _called(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(target, ops.Operator):
        return _standing_for(target, args, kwargs)
    if target is torch.ops.aten.scaled_dot_product_attention.default and _has_heads(*args, **kwargs):
        query, key, value = args[:3]
        options: dict[str, Any] = {} if kwargs.get("scale") is None else {"scale": float(kwargs["scale"])}
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{ATTENTION}", (query, key, value), options,
            dtype=query.dtype, shape=(*query.shape[:-1], value.shape[-1]), version=1,
        )  # fmt: skip
    if target is torch.ops.aten.view.default:  # in ONNX nothing has strides that a view would have to respect
        return args[0].reshape(args[1])
    if target is torch.ops.aten.squeeze.dim and args[0].shape[args[1]] != 1:  # the exporter writes a Squeeze all the same
        return args[0]
    return target(*args, **kwargs)


def _has_heads(query: Tensor, *others: Any, **options: Any) -> bool:
    """Of (B, heads, tokens, width), and plain: others go by the exporter's own translation."""
    return query.dim() == 4 and meanings.is_plain_attention(query, *others, **options)


def _standing_for(op: ops.Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One ONNX node of our domain in the place of a call."""
    bound = op.schema.bind(*args, **kwargs)
    bound.apply_defaults()
    given, tensors = bound.arguments, op.tensors
    attributes = {k: _attribute(v) for k, v in given.items() if k not in tensors and v is not None}
    shapes = SHAPES[op.name](given)
    made = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{op.__name__}", [given[name] for name in tensors], attributes,
        dtypes=[given.get("dtype", torch.float32)] * len(shapes), shapes=shapes, version=1,
    )  # fmt: skip
    return made[0] if len(shapes) == 1 else tuple(made)


# The shapes of our operators' results, as far as an operator that is not ours may read them. The meaning would give them too,
# but a trace of it with sizes as formulas takes as long as all the rest of an export.
Given = dict[str, Any]
Shapes = list[tuple[Any, ...]]


def _quantized(given: Given) -> Shapes:
    x, axis, down = given["x"], given["axis"] % given["x"].dim(), given["down"]
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [(*rows, x.shape[axis]), (*rows, 1), *([] if down is None else [(*rows, len(down))])]


def _convolved(given: Given) -> Shapes:
    codes, weight = given["codes"], given["weight"]
    geometry = zip(codes.shape[1:3], weight.shape[1:3], given["stride"], given["padding"], given["dilation"], strict=True)
    sizes = [(size + 2 * pad - step * (taps - 1) - 1) // stride + 1 for size, taps, stride, pad, step in geometry]
    return [(codes.shape[0], len(weight), *sizes)]


def _affine(given: Given) -> Shapes:
    x = given["x"]
    return [(x.shape[0], *[1] * (x.dim() - 2), x.shape[1])] * 2


def _dequantized(given: Given) -> Shapes:
    codes = given["codes"]
    return [(*codes.shape[:-1], codes.shape[-1] * (8 // format_named(given["format"]).bits))]


SHAPES: dict[str, Callable[[Given], Shapes]] = {
    "aquatint::quantize": _quantized,
    "aquatint::gemm": lambda given: [(*given["codes"].shape[:-1], len(given["weight"]))],
    "aquatint::conv2d": _convolved,
    "aquatint::group_affine": _affine,
    "aquatint::attention": lambda given: [(*given["query"].shape[:-1], given["value"].shape[-1])],
    "aquatint::dequantize": _dequantized,
}


def _attribute(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (tuple, list)):
        return [v or "" for v in value] if any(isinstance(v, str) for v in value) else list(value)
    return value


def _pair_products(graph: fx.Graph) -> None:
    """torch.export writes a product of three sizes as one call of a function that takes two."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is operator.mul and len(node.args) > 2:
            with graph.inserting_before(node):
                *others, last = node.args
                node.args = (reduce(lambda a, b: graph.call_function(operator.mul, (a, b)), others), last)


def _name(model: ir.Model, program: Program, places: dict[str, str]) -> None:
    """The user's names for inputs, outputs, free sizes and weights."""
    import onnx_ir as ir

    graph = model.graph
    inputs, outputs = interface_names(program)
    for value, name, spec in zip(graph.inputs, inputs, program.interface.inputs, strict=True):
        value.name = name
        value.shape = ir.Shape(spec.shape)
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    named = {place: name for name, place in places.items()}
    for value in list(graph.initializers.values()):
        if value.name in named:
            value.name = named[value.name]


def _untranslated(program: Program, error: BaseException) -> str:
    """The exporter's reason, and the nodes of the operator that it names."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    named = set(re.findall(r"aten[.:]+([\w.]+)", str(error)))
    nodes = [(n.name, ops.name_of(n.target) or "") for n in program.graph.nodes if n.op == "call_function"]
    lines = [f"{name}: {operator}" for name, operator in nodes if operator.removeprefix("aten::") in named]
    return "\n  ".join([f"{program.name} can't be written as ONNX: {reason}", *lines])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

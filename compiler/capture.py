"""From the user's module to a program, by torch.export without decomposition."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from aquatint.compiler.errors import CaptureError
from aquatint.compiler.exported import exported_from
from aquatint.compiler.interface import (
    RETURN_DICT,
    InputSpec,
    Interface,
    call_leaves,
    describe,
    parameters_of,
    replace_leaves,
    signature_of,
)
from aquatint.compiler.program import Program, Site
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops

# Checks and training-only operators that torch.export leaves in the graph.
ERASED = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range", "sym_constrain_range_for_size"}
NEAR = {torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of the output: a few roundings, where a random number would be far more
# Second names of operators, with the same overloads.
SAME = {
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "absolute": "abs", "arctan2": "atan2",
    "clip": "clamp", "concatenate": "cat", "divide": "div", "fix": "trunc", "greater": "gt", "greater_equal": "ge",
    "less": "lt", "less_equal": "le", "moveaxis": "movedim", "multiply": "mul", "negative": "neg", "not_equal": "ne",
    "special_expit": "sigmoid", "subtract": "sub",
}  # fmt: skip
PASSED_THROUGH = {"dropout", "feature_dropout", "alpha_dropout", "detach", "alias", "lift_fresh_copy", "lift_fresh"}


@dataclass(frozen=True)
class Example:
    """One call of the model: what it was given."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


class _Flat(nn.Module):
    """The user's model with a list of tensors in and a list of tensors out."""

    def __init__(self, model: nn.Module, example: Example, paths: list[str]) -> None:
        super().__init__()
        self.model = model
        self.example, self.paths = example, paths
        self.names = [p.name for p in parameters_of(model)]
        self.output: Any = None

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        new = dict(zip(self.paths, tensors, strict=True))
        args = [replace_leaves(name, value, new) for name, value in zip(self.names, self.example.args, strict=False)]
        kwargs = {name: replace_leaves(name, value, new) for name, value in self.example.kwargs.items()}
        results: list[Tensor] = []
        self.output = describe(self.model(*args, **kwargs), results)
        return results


def capture(model: nn.Module, example: Example, name: str = "model", sampler: Mapping[str, Any] | None = None) -> Program:
    """`model` as a program for calls like `example`; sizes that may vary stay free.

    The example's batch may be 1: it is doubled where the model allows it, since torch.export fixes sizes 0 and 1. Where the
    model fixes whatever batch it is given, the program takes the example's.
    Raises CaptureError naming the line of the model when it can't be exported, and when the program's outputs differ.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _capture(model, example, name, sampler)
    finally:
        model.train(was_training)


def _capture(model: nn.Module, example: Example, name: str, sampler: Mapping[str, Any] | None, doubles: bool = True) -> Program:
    given = example = Example(example.args, {k: v for k, v in example.kwargs.items() if k != RETURN_DICT})
    parameters = parameters_of(model)
    leaves = call_leaves(signature_of(parameters), example.args, example.kwargs)
    tensors = {path: value for path, value in leaves if isinstance(value, Tensor)}
    if not tensors:
        raise CaptureError("the example call of the model has no tensor in it")
    own = tensors
    example, tensors, vectors = _batched(model, example, tensors, leaves, doubles)
    flat = _Flat(model, example, list(tensors))
    expected = flat(*tensors.values())
    exported = exported_from(flat, list(tensors.values()))
    constants = [(p, v) for p, v in leaves if p not in tensors and p != RETURN_DICT]
    for path, value in constants:
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise CaptureError(f"argument {path} is a {type(value).__name__}; a program takes tensors and plain constants")
    graph, weights, shapes = _converted(exported)
    if doubles and _fixed(own, tensors, shapes):
        return _capture(model, given, name, sampler, doubles=False)
    batch = next((shape[0] for shape in shapes if len(shape) > 1), None)
    inputs = tuple(
        InputSpec(path, str(t.dtype).removeprefix("torch."), shape, path in vectors or shape == (batch,), tuple(t.shape))
        for (path, t), shape in zip(tensors.items(), shapes, strict=True)
    )
    interface = Interface(parameters, inputs, tuple(constants), flat.output)
    config = {k: v for k, v in dict(getattr(model, "config", None) or {}).items() if _belongs_in_config(k, v)}
    program = Program(name, graph, Weights(weights), interface, (), config, sampler)
    program = replace(program, sites=find_sites(program))
    near = max(NEAR.get(t.dtype, 0.0) for t in (*weights.values(), *expected))
    if near:  # the bound of a coarse dtype would let small random numbers by; a second call of the model itself does not
        _compare("a second call", flat(*tensors.values()), expected, 0.0)
    _compare("the captured program", program(*tensors.values()), expected, near)
    return program


def _batched(
    model: nn.Module, example: Example, tensors: dict[str, Tensor], leaves: list[tuple[str, Any]], doubles: bool
) -> tuple[Example, dict[str, Tensor], set[str]]:
    """The example with numbers turned into one entry a sample and, with `doubles`, a batch of at least 2, as far as the
    model agrees."""
    full = {p: t for p, t in tensors.items() if t.dim() > 0}
    first = next(iter(full.values()), None)
    if first is None:
        return example, tensors, set()
    doubles = doubles and first.shape[0] == 1
    batch = 2 if doubles else first.shape[0]
    doubled = {p: t.repeat(2, *[1] * (t.dim() - 1)) if doubles and t.shape[0] == 1 else t for p, t in full.items()}
    given = {p.name for p, _ in zip(parameters_of(model), example.args, strict=False)} | set(example.kwargs)
    numbers = {p: torch.as_tensor(v) for p, v in leaves if _is_number(v) and p.partition(".")[0] in given}
    vectors = {p: t.reshape(1).expand(batch).contiguous() for p, t in numbers.items()}
    plain = _results(model, example, {})
    for trial in (doubled | vectors, doubled, vectors) if vectors else (doubled,):
        got = _results(model, example, trial)
        if got is not None and plain is not None and _agree(got, plain, first.shape[0]):
            chosen = tensors | trial
            order = [p for p, _ in leaves if p in chosen]
            return _with(model, example, trial), {p: chosen[p] for p in order}, set(vectors) & set(trial)
    return example, tensors, set()


def _fixed(own: dict[str, Tensor], doubled: dict[str, Tensor], shapes: list[tuple[int | str, ...]]) -> bool:
    """Did a batch of 1 that was doubled stay 2? Then the model fixes its batch, and it has to be the caller's."""
    pairs = [(own[path], shape) for path, shape in zip(doubled, shapes, strict=True) if path in own]
    return any(t.shape[:1] == (1,) and shape[0] == 2 for t, shape in pairs)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with(model: nn.Module, example: Example, new: dict[str, Tensor]) -> Example:
    names = [p.name for p in parameters_of(model)]
    args = tuple(replace_leaves(n, v, new) for n, v in zip(names, example.args, strict=False))
    return Example(args, {n: replace_leaves(n, v, new) for n, v in example.kwargs.items()})


def _results(model: nn.Module, example: Example, new: dict[str, Tensor]) -> list[Tensor] | None:
    """Every output tensor of a trial call, or None when the model refuses it, which is an answer here."""
    changed = _with(model, example, new)
    results: list[Tensor] = []
    try:
        describe(model(*changed.args, **changed.kwargs), results)
    except CaptureError:
        raise
    except Exception:
        if not new:
            raise
        return None
    return results


def _agree(got: list[Tensor], plain: list[Tensor], batch: int) -> bool:
    """Is the trial's first part what the plain call gave?"""
    return len(got) == len(plain) and all(
        g.dim() == p.dim() and g[:batch].shape == p.shape and torch.allclose(g[:batch].float(), p.float(), 1e-3, 1e-4)
        for g, p in zip(got, plain, strict=True)
    )


def _converted(exported: torch.export.ExportedProgram) -> tuple[fx.Graph, dict[str, Tensor], list[tuple[int | str, ...]]]:
    """Our graph, its weights, and the shape of each user input, from torch's exported program."""
    signature = exported.graph_signature
    lifted = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    stored: dict[str, Any] = {**exported.constants, **exported.state_dict}
    graph, new = fx.Graph(), {}
    weights: dict[str, Tensor] = {}
    shapes: list[tuple[int | str, ...]] = []
    symbols: dict[str, str] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            source = lifted[node.name]
            weight = source.removeprefix("model.")
            weights[weight] = stored[source].detach()
            new[node] = graph.get_attr(weight) if node.users else None
        elif node.op == "placeholder":
            new[node] = graph.placeholder(node.name)
            shapes.append(tuple(_size(s, symbols) for s in node.meta["val"].shape))
        elif node.op == "output":
            graph.output([new[n] for n in node.args[0]])
        elif (packet := _packet(node)) in PASSED_THROUGH:
            new[node] = new[node.args[0]]
        elif packet not in ERASED:
            new[node] = _table_node(graph, node, new)
    program_weights = {n.target for n in graph.nodes if n.op == "get_attr"}
    return graph, {k: w for k, w in weights.items() if k in program_weights}, shapes


def _size(size: Any, symbols: dict[str, str]) -> int | str:
    """A fixed size as an int, a free one as s0, s1 ... in order of appearance (torch numbers them by chance)."""
    text = str(size)
    return int(text) if text.isdigit() else symbols.setdefault(text, f"s{len(symbols)}")


def _packet(node: fx.Node) -> str:
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""


def _table_node(graph: fx.Graph, node: fx.Node, new: dict[fx.Node, fx.Node]) -> fx.Node:
    target = node.target
    if (packet := _packet(node)) in SAME:
        target = getattr(getattr(torch.ops.aten, SAME[packet]), node.target._overloadname)  # type: ignore[union-attr]
    if node.op != "call_function" or ops.name_of(target) is None:
        trace = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\s+(.*)', node.meta.get("stack_trace") or "")
        where = "{}:{} in {}: {}".format(*trace[-1]) if trace else "an unknown line"
        raise CaptureError(f"operator {node.target} is not in the table of operators\n  at {where}")
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: new[n])
    return graph.create_node("call_function", target, args, kwargs, node.name)


def find_sites(program: Program) -> tuple[Site, ...]:
    """Every linear and 2-d convolution that reads its weight straight from the program, in graph order."""
    sites: dict[str, Site] = {}
    for node in program.graph.nodes:
        packet = _packet(node) if node.op == "call_function" else ""
        if packet not in ("linear", "conv2d") or node.args[1].op != "get_attr":
            continue
        weight = str(node.args[1].target)
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        bias_name = str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else None
        shape = program.weights[weight].shape
        name = weight.removesuffix(".weight")
        if packet == "linear":
            sites[weight] = Site(name, weight, bias_name, "linear", shape[0], shape[1])
        else:
            groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
            kernel = (shape[2], shape[3])
            sites[weight] = Site(name, weight, bias_name, "conv2d", shape[0], shape[1], kernel, groups)
    return tuple(sites.values())


def _belongs_in_config(key: str, value: Any) -> bool:
    """Plain data, less the bookkeeping that diffusers adds when it loads a model, in an order of chance."""
    return _is_plain(value) and not key.startswith("_use_default")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return isinstance(value, (bool, int, float, str, type(None)))


def _compare(of: str, got: list[Tensor], expected: list[Tensor], near: float) -> None:
    """`near`: by how much of the output they may differ, where a sum in another order may end in another digit."""
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        a, b = a.float(), b.float()
        same = a.shape == b.shape and (
            torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) or bool((a - b).norm() <= near * b.norm())
        )
        if not same:
            apart = f"by {(a - b).abs().max():.2e}" if a.shape == b.shape else f"in shape: {list(a.shape)}, not {list(b.shape)}"
            raise CaptureError(
                f"output {i} of {of} differs from the model's {apart}: "
                "the model draws random numbers or keeps a state between calls"
            )

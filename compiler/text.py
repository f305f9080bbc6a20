"""A program as text for people, and back: `parse(text(p)).same_as(p)` but for the numbers in the weights.

    program dit
    input %arg0: float32[s0, 1, 28, 28]
    weight @proj_out.weight: float32[16, 256]
    %linear = aten::linear.default(%arg0, @proj_out.weight, None)
    return [%linear]

`plain` and `unplain` turn arguments into JSON values and back; the artifact's graph.json is written with them too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from aquatint.compiler.errors import AquatintError
from aquatint.compiler.program import Program
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops

_KINDS: dict[type, str] = {
    torch.dtype: "dtype",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def plain(value: Any) -> Any:
    """An argument of a node as JSON: a node is {"node": name}, a weight {"weight": name}, a dtype {"dtype": "float32"}."""
    if isinstance(value, fx.Node):
        return {"weight": str(value.target)} if value.op == "get_attr" else {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, slice):
        return {"slice": [plain(value.start), plain(value.stop), plain(value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if (isinstance(value, float) and value not in (value, 0.0)) or value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise AquatintError(f"a {type(value).__name__} can't be an argument in a program")


def unplain(value: Any, node_named: Callable[[str, str], Any]) -> Any:
    """What `plain` wrote. `node_named(kind, name)` finds nodes and weights. Raises ValueError on anything else."""
    if isinstance(value, list):
        return [unplain(v, node_named) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"{json.dumps(value)} is no argument of an operator")
    ((kind, name),) = value.items()
    if kind in ("node", "weight"):
        return node_named(kind, name)
    if kind == "slice":
        return slice(*(unplain(v, node_named) for v in name))
    if kind == "device":
        return torch.device(name)
    if kind == "float":
        return float(name)
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if kind not in _KINDS.values() or _KINDS.get(type(found)) != kind:
        raise ValueError(f"{json.dumps(value)} is no argument of an operator")
    return found


def text(program: Program) -> str:
    """`program` as text, one line a node."""
    lines = [f"program {program.name}", *(f"pass {line}" for line in program.log)]
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.interface.inputs, strict=True):
        lines.append(f"input %{node.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]  # {spec.path}")
    for name in program.weights:
        weight = program.weights.stored(name)
        lines.append(f"weight @{name}: {str(weight.dtype).removeprefix('torch.')}{list(weight.shape)}")
    for node in program.graph.nodes:
        if node.op == "call_function":
            arguments = [_shown(plain(a)) for a in node.args] + [f"{k}={_shown(plain(v))}" for k, v in node.kwargs.items()]
            lines.append(f"%{node.name} = {ops.name_of(node.target)}({', '.join(arguments)})")
    lines.append(f"return {_shown(plain(program.graph.output_node().args[0]))}")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        ((kind, name),) = value.items()
        marks = {"node": f"%{name}", "weight": f"@{name}"}
        return marks.get(kind) or f"{kind}({_shown(name) if kind == 'slice' else repr(name)})"
    return repr(value)


_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![\w.])(?:%\w+|@[^\s,()\[\]'"]+)""")


def _read(source: str) -> Any:
    """Arguments as written by `_shown`, as plain values."""
    return _unparse(ast.parse(_TOKEN.sub(_call, source), mode="eval").body)


def _call(match: re.Match[str]) -> str:
    found = match.group()
    return found if found[0] in "'\"" else f"{'node' if found[0] == '%' else 'weight'}({found[1:]!r})"


def _unparse(node: ast.expr) -> Any:
    if isinstance(node, ast.List):
        return [_unparse(item) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        return {node.func.id: _unparse(node.args[0])}
    return ast.literal_eval(node)


def parse(source: str, like: Program) -> Program:
    """The program that `text` printed; what the text leaves out (interface, sites, config) is taken from `like`.

    Weights are empty tensors on the meta device. Raises ValueError with the line that can't be read.
    """
    builder = GraphBuilder()
    weights = Weights()
    name, log = like.name, []
    for number, line in enumerate(source.splitlines(), 1):
        try:
            word, _, rest = line.partition(" ")
            if word == "program":
                name = rest
            elif word == "pass":
                log.append(rest)
            elif word == "input":
                builder.placeholder(rest.partition(":")[0].removeprefix("%"))
            elif word == "weight":
                weight, dtype, shape = re.fullmatch(r"@(\S+): (\w+)(\[.*\])", rest).groups()  # type: ignore[union-attr]
                weights[weight] = torch.empty(ast.literal_eval(shape), dtype=getattr(torch, dtype), device="meta")
            elif word == "return":
                builder.output(_read(rest))
            elif line.strip():
                result, operator, arguments = re.fullmatch(r"%(\w+) = ([\w:.]+)\((.*)\)", line).groups()  # type: ignore[union-attr]
                builder.call(result, operator, *_read_call(arguments))
        except (ValueError, AttributeError, SyntaxError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} can't be read: {line!r} ({error})") from None
    return Program(name, builder.graph, weights, like.interface, like.sites, like.config, like.sampler, tuple(log))


def _read_call(arguments: str) -> tuple[list[Any], dict[str, Any]]:
    call = ast.parse(f"f({_TOKEN.sub(_call, arguments)})", mode="eval").body
    assert isinstance(call, ast.Call)
    return [_unparse(a) for a in call.args], {str(k.arg): _unparse(k.value) for k in call.keywords}


class GraphBuilder:
    """Puts a graph together from plain values; KeyError for an operator that the table does not hold."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self._nodes: dict[str, fx.Node] = {}
        self._weights: dict[str, fx.Node] = {}

    def _find(self, kind: str, name: str) -> fx.Node:
        if kind == "weight":
            if name not in self._weights:
                self._weights[name] = self.graph.get_attr(name)
            return self._weights[name]
        return self._nodes[name]

    def placeholder(self, name: str) -> None:
        self._nodes[name] = self._named(self.graph.placeholder(name), name)

    def call(self, name: str, operator: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
        target = ops.operator_named(operator)
        new_args = tuple(unplain(a, self._find) for a in args)
        new_kwargs = {k: unplain(v, self._find) for k, v in kwargs.items()}
        node = self.graph.create_node("call_function", target, new_args, new_kwargs, name)
        self._nodes[name] = self._named(node, name)

    def output(self, results: Any) -> None:
        self.graph.output(unplain(results, self._find))

    def _named(self, node: fx.Node, name: str) -> fx.Node:
        if node.name != name:
            raise ValueError(f"{name} is defined twice")
        return node

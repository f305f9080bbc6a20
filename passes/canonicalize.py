"""Take out what does nothing, and compute once what is computed twice or the same in every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from aquatint.compiler.capture import find_sites
from aquatint.compiler.edit import is_call, new_weight
from aquatint.compiler.execution import Execution
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.compiler.verify import dtypes
from aquatint.runtime.ops import name_of

CONVERSIONS = ("aten::to.dtype", "aten::to.dtype_layout", "aten::_to_copy.default", "aten::type_as.default")
NEUTRAL = {"aten::mul.Tensor": 1, "aten::div.Tensor": 1, "aten::add.Tensor": 0, "aten::sub.Tensor": 0}
TO_THE_END = 2**63 - 1
LARGEST_CONSTANT = 1 << 16  # bytes; what is larger is cheaper to compute than to keep


@dataclass(frozen=True)
class Canonicalize:
    """Before:  %t = aten::to.dtype(%x, float32)             # x is float32 already
             %s = aten::slice.Tensor(%t, 0, 0, 9223372036854775807);  %d = aten::div.Tensor(%s, 1.0)
             %a = aten::silu.default(%d);  %b = aten::silu.default(%d);  %r = aten::arange.start(0, 128, ...)
    After:   %a = aten::silu.default(%x)                     # and @constants.arange

    1. What gives back its input is dropped: a conversion to the dtype that is there, a slice of everything, a factor of 1,
       an addend of 0, a transposition that is taken back.
    2. Equal operators on equal arguments become one: models embed the time step once a block.
    3. What depends on no input and no weight becomes a constant among the weights.
    """

    name: ClassVar[str] = "canonicalize"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        known = dtypes(program, list(context.calibration.calls[0]))
        dropped = sum(_drop(node, known) for node in list(program.graph.nodes))
        merged = _merge_equal(program)
        program.drop_unused()
        constants = _fold_constants(program)
        program.drop_unused()
        program.sites = find_sites(program)
        return Report(self.name, {"": {"nodes dropped": dropped, "nodes merged": merged, "constants": constants}})


def _drop(node: fx.Node, known: dict[str, object]) -> bool:
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, fx.Node):
        return False
    if _undoes(node, source):
        node.replace_all_uses_with(source.args[0])  # type: ignore[arg-type]
        return True
    same = known.get(node.name) is not None and known.get(node.name) == known.get(source.name)
    if not same or not (name_of(node.target) in CONVERSIONS or _takes_all(node) or _is_neutral(node)):
        return False
    node.replace_all_uses_with(source)
    return True


def _undoes(node: fx.Node, source: fx.Node) -> bool:
    """Is this the second of two equal transpositions?"""
    both = is_call(node, "aten::transpose.int") and is_call(source, "aten::transpose.int")
    return both and set(node.args[1:]) == set(source.args[1:])


def _takes_all(node: fx.Node) -> bool:
    if not is_call(node, "aten::slice.Tensor") or node.kwargs:
        return False
    start, end, step = (*node.args[2:], *(None, None, 1)[len(node.args) - 2 :])
    return bool(start in (0, None) and end in (TO_THE_END, None) and step == 1)


def _is_neutral(node: fx.Node) -> bool:
    neutral = NEUTRAL.get(name_of(node.target) or "")
    number = node.args[1] if len(node.args) == 2 and not node.kwargs else None
    return neutral is not None and isinstance(number, (int, float)) and number == neutral


def _merge_equal(program: Program) -> int:
    seen: dict[object, fx.Node] = {}
    merged = 0
    for node in list(program.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.op, node.target, repr(node.args), repr(sorted(node.kwargs.items())))
        if (first := seen.setdefault(key, node)) is not node:
            node.replace_all_uses_with(first)
            merged += 1
    return merged


def _fold_constants(program: Program) -> int:
    """Only what others read is kept, and nothing that a product reads: a weight is a weight."""
    fixed: dict[fx.Node, object] = {}
    execution = Execution(program.graph, program.weights)
    for node in execution.nodes:
        if all(source in fixed for source in node.all_input_nodes):
            fixed[node] = execution.step(node, fixed)
    folded = 0
    for node, value in fixed.items():
        outside = [user for user in node.users if user not in fixed]
        small = isinstance(value, torch.Tensor) and value.nbytes <= LARGEST_CONSTANT
        if not outside or not small or any(_is_product(user) for user in outside):
            continue
        with program.graph.inserting_before(node):
            constant = new_weight(program, f"constants.{node.name}", value.contiguous())  # type: ignore[union-attr]
        node.replace_all_uses_with(constant)
        folded += 1
    return folded


def _is_product(node: fx.Node) -> bool:
    return (name_of(node.target) or "").startswith(("aten::linear", "aten::conv"))

"""Take out what does nothing, and compute once what is computed twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from aquatint.compiler.capture import find_sites
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.compiler.verify import dtypes
from aquatint.runtime.ops import name_of


@dataclass(frozen=True)
class Canonicalize:
    """Before:  %t = aten::to.dtype(%x, float32)             # x is float32 already
             %a = aten::silu.default(%e);  %b = aten::silu.default(%e)
    After:   %a = aten::silu.default(%e)

    1. A conversion to the dtype that a tensor already has is dropped.
    2. Equal operators on equal arguments become one: models embed the time step once a block.
    """

    name: ClassVar[str] = "canonicalize"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        known = dtypes(program, list(context.calibration.calls[0]))
        converted = sum(_drop_conversion(node, known) for node in list(program.graph.nodes))
        merged = _merge_equal(program)
        program.drop_unused()
        program.sites = find_sites(program)
        return Report(self.name, {"": {"conversions dropped": converted, "nodes merged": merged}})


def _drop_conversion(node: fx.Node, known: dict[str, object]) -> bool:
    names = ("aten::to.dtype", "aten::to.dtype_layout", "aten::_to_copy.default", "aten::type_as.default")
    if node.op != "call_function" or name_of(node.target) not in names:
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or known.get(node.name) is None or known.get(node.name) != known.get(source.name):
        return False
    node.replace_all_uses_with(source)
    return True


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

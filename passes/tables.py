"""Store the tables that rows are looked up in, such as a class's embedding, in 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from aquatint.compiler.edit import is_call, new_weight
from aquatint.compiler.formats import format_named
from aquatint.compiler.numerics import total
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.runtime.ops import operator_named

LOOKUP, FORMAT = "aten::embedding.default", "int8"


@dataclass(frozen=True)
class Tables:
    """Tables in int8 with a scale for each row; what is looked up is widened, and the table never is.

    Before:  %e = aten::embedding.default(@labels.weight, %class_labels)
    After:   %c = aten::embedding.default(@labels.codes, %class_labels)
             %s = aten::embedding.default(@labels.scales, %class_labels)
             %e = aquatint::dequantize(%c, %s, format='int8', dtype=torch.float32)

    least   numbers of a table that is worth it
    Leaves alone: smaller ones, those that something else reads too, and those with a NaN. Reports each table's signal-to-noise
    ratio.
    """

    least: int = 1 << 18
    name: ClassVar[str] = "tables"
    exact: ClassVar[bool] = False

    def run(self, program: Program, context: Context) -> Report:
        worth_it = [n for n in program.graph.nodes if is_call(n, LOOKUP) and self._is_worth_it(program, n)]
        return Report(self.name, {"": {"tables": dict(_store(program, node) for node in worth_it)}})

    def _is_worth_it(self, program: Program, node: fx.Node) -> bool:
        table = node.args[0]
        if not isinstance(table, fx.Node) or table.op != "get_attr" or program.users_of(str(table.target)) != [node]:
            return False
        weight = program.weights[str(table.target)]
        return weight.is_floating_point() and weight.numel() >= self.least and bool(torch.isfinite(weight).all())


def _store(program: Program, node: fx.Node) -> tuple[str, float | None]:
    """The table's name, and its signal-to-noise ratio in dB; None where nothing is lost."""
    table: Any = node.args[0]
    name, weight = str(table.target).removesuffix(".weight"), program.weights[str(table.target)]
    stored = format_named(FORMAT).encode(weight)
    with program.graph.inserting_before(node):
        parts = [new_weight(program, f"{name}.{part}", value) for part, value in stored._asdict().items()]
        rows = tuple(program.graph.call_function(node.target, (part, node.args[1])) for part in parts)  # type: ignore[arg-type]
        options = {"format": FORMAT, "dtype": weight.dtype}
        new = program.graph.call_function(operator_named("aquatint::dequantize"), rows, options)
    node.replace_all_uses_with(new)
    program.graph.erase_node(node)
    error, signal = total((format_named(FORMAT).decode(*stored) - weight).square()), total(weight.float().square())
    return name, 10 * math.log10(signal / error) if error and signal else None

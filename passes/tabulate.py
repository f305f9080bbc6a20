"""Look up what follows from a student's few time stamps, and a class, alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from aquatint.compiler.capture import find_sites
from aquatint.compiler.edit import insert_after, new_weight
from aquatint.compiler.errors import PassError
from aquatint.compiler.execution import Execution, Values
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.runtime.ops import name_of, operator_named

PRODUCTS = ("aten::linear.default", "aten::addmm.default")
LARGEST = 1 << 24  # bytes of a table: what is larger stays a product


@dataclass(frozen=True)
class Tabulate:
    """Embeddings and modulations of the times that a student is called at become tables: its products of one row vanish.

    Before:  %e = aten::linear.default(%s, @time.weight, @time.bias)     # and what is before it, of %timestep alone
             %m = aten::linear.default(%a, @block.modulation.weight)     # of %e alone, or of %e and %class_labels
    After:   %d = aten::abs.default(aten::sub.Tensor(%timestep, @stamps));  %row = aten::argmin.default(%d, 1)
             %m = aten::embedding.default(@block.modulation.table, %row)

    stamps   what the model is told of each of its times
    classes  how many numbers `labels`, an input, may have; 0: that input is none of what is looked up
    Asked at another time the model says NaN: it never was trained for it. Leaves alone: tables of more than 16 MB.
    """

    stamps: tuple[float, ...]
    classes: int = 0
    labels: str = "class_labels"
    name: ClassVar[str] = "tabulate"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        places = {spec.path: node for spec, node in zip(program.interface.inputs, _inputs(program), strict=True)}
        if "timestep" not in places or not self.stamps:
            raise PassError(
                f"{program.name} is not called with a timestep, or its student has no stamps: there is no table to make"
            )
        keys = {"timestep": places["timestep"]}
        if self.classes and self.labels in places:
            keys[self.labels] = places[self.labels]
        known, keyed = _follows_from(program, set(keys.values()))
        values = self._values(program, keys, known)
        rows = len(self.stamps) * (self.classes if self.labels in keys else 1)
        last = [n for n in keyed if name_of(n.target) in PRODUCTS and not _leads_to_product(n, known)]
        tables = {n: values[n] for n in last if values[n].dim() == 2 and len(values[n]) == rows and values[n].nbytes <= LARGEST}
        if tables:
            row = self._row(program, keys)
            for node, table in tables.items():
                _replace(program, node, table, row, rows // len(self.stamps))
            program.drop_unused()
            program.sites = find_sites(program)
            program.sampler = {**(program.sampler or {}), "tables": list(self.stamps)}
        return Report(self.name, {"": {"tables": len(tables), "bytes": sum(t.nbytes for t in tables.values())}})

    def _values(self, program: Program, keys: dict[str, fx.Node], known: list[fx.Node]) -> Values:
        """All that follows from the keys, for every stamp with every class."""
        labels = torch.arange(self.classes if self.labels in keys else 1)
        told = torch.tensor(self.stamps).repeat_interleave(len(labels))
        dtypes = {spec.path: getattr(torch, spec.dtype) for spec in program.interface.inputs}
        values: Values = {keys["timestep"]: told.to(dtypes["timestep"])}
        if self.labels in keys:
            values[keys[self.labels]] = labels.repeat(len(self.stamps)).to(dtypes[self.labels])
        execution = Execution(program.graph, program.weights)
        with torch.no_grad():
            for node in known:
                is_size = name_of(node.target) == "aten::sym_size.int"
                values[node] = len(told) if is_size else execution.step(node, values)
        return values

    def _row(self, program: Program, keys: dict[str, fx.Node]) -> fx.Node:
        """The number of each sample's row; behind all others where its time is no stamp."""
        time = keys["timestep"]
        dtype = next(getattr(torch, spec.dtype) for spec in program.interface.inputs if spec.path == "timestep")
        with insert_after(program, time):
            told = torch.tensor(self.stamps).to(dtype).float()  # as it is rounded on its way
            stamps = new_weight(program, "tables.stamps", told)
        at = stamps

        def call(name: str, *args: Any) -> fx.Node:
            nonlocal at
            with program.graph.inserting_after(at):
                at = program.graph.call_function(operator_named(name), args)
            return at

        apart = call("aten::abs.default", call("aten::sub.Tensor", call("aten::unsqueeze.default", time, 1), stamps))
        nearest = call("aten::argmin.default", apart, 1)
        other = call("aten::gt.Scalar", call("aten::amin.default", apart, [1]), 0.5)
        row = call("aten::where.ScalarSelf", other, len(self.stamps), nearest)
        if self.labels not in keys:
            return row
        return call("aten::add.Tensor", call("aten::mul.Tensor", row, self.classes), keys[self.labels])


def _inputs(program: Program) -> list[fx.Node]:
    return [n for n in program.graph.nodes if n.op == "placeholder"]


def _follows_from(program: Program, keys: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """What depends on keys, weights and the number of samples alone, in order; and of these what does depend on a key."""
    found: dict[fx.Node, None] = {}
    keyed: dict[fx.Node, None] = dict.fromkeys(keys)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        batch = name_of(node.target) == "aten::sym_size.int" and node.args[1] == 0
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if batch or all(n in keys or n in found for n in sources):
            found[node] = None
            if any(n in keyed for n in sources):
                keyed[node] = None
    return list(found), [n for n in keyed if n not in keys]


def _leads_to_product(node: fx.Node, known: list[fx.Node]) -> bool:
    """Is another product made of this one, of the keys alone?"""
    inside, todo = set(known), [*node.users]
    while todo:
        user = todo.pop()
        if user in inside and name_of(user.target) in PRODUCTS:
            return True
        todo += user.users if user in inside else ()
    return False


def _replace(program: Program, node: fx.Node, table: Tensor, row: fx.Node, classes: int) -> None:
    nothing = torch.full((classes, table.shape[1]), float("nan"), dtype=table.dtype)
    with program.graph.inserting_before(node):
        weight = new_weight(program, f"{node.args[1].target}.table", torch.cat([table, nothing]))  # type: ignore[union-attr]
        found = program.graph.call_function(operator_named("aten::embedding.default"), (weight, row))
    node.replace_all_uses_with(found)

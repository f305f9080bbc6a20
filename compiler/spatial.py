"""Where in each value of a program the places of the image lie: found from the image on, operator by operator.

An operator whose result at a place is known from its inputs at that place, or at few others, keeps the places apart; behind any
other the layout is lost, and what stands there is computed whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from aquatint.compiler.layout import WHOLE, Layout, Mark, Seeing
from aquatint.compiler.program import Program
from aquatint.compiler.spatial_rules import RULES, Reader
from aquatint.compiler.verify import faked
from aquatint.runtime.ops import name_of

SIZES = ("aten::sym_size.int", "aten::sym_numel.default")


@dataclass(frozen=True)
class Spatial:
    """What is known of a program for one size of its inputs.

    image    the input whose places are edited
    changes  nodes that depend on it
    layouts  of those that keep its places apart;  seeing: how each of these follows from its inputs
    shapes   of every tensor
    """

    image: fx.Node
    changes: frozenset[fx.Node]
    layouts: Mapping[fx.Node, Layout]
    seeing: Mapping[fx.Node, Seeing]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, Any]


def spatial(program: Program, inputs: list[Tensor]) -> Spatial:
    """Layouts of all values of `program`, called with `inputs`; its first input is the image, or the tokens of one."""
    known = faked(program, inputs)
    image = next(n for n in program.graph.nodes if n.op == "placeholder")
    shape = tuple(known[image.name].shape)
    axes = range(2, len(shape)) if len(shape) > 3 else [1]
    grid = tuple(shape[d] for d in axes)
    marks: list[Mark | None] = [None] * len(shape)
    for place, d in enumerate(axes):
        marks[d] = Mark(place if len(grid) > 1 else None)
    reader = Reader({n: tuple(t.shape) for n, t in known.items()}, {image: Layout(grid, tuple(marks))})
    changes, seeing = {image}, {image: WHOLE}
    for node in program.graph.nodes:
        if node.op != "call_function" or name_of(node.target) in SIZES or not changes.intersection(node.all_input_nodes):
            continue
        changes.add(node)
        rule = RULES.get((name_of(node.target) or "").partition(".")[0])
        if rule and (found := rule(reader, node)):
            layout, seeing[node] = found
            if layout:
                reader.layouts[node] = layout
    dtypes = {n: t.dtype for n, t in known.items()}
    return Spatial(image, frozenset(changes), reader.layouts, seeing, reader.shapes, dtypes)

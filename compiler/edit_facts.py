"""What the entry `edit` is built by: which inputs a value follows from, where it is computed, which are kept as they are."""

from __future__ import annotations

from torch import fx

from aquatint.compiler.movements import moves
from aquatint.compiler.regions import Edited, Region, Touched, wider
from aquatint.compiler.spatial import Spatial
from aquatint.compiler.spatial_rules import unpadded
from aquatint.runtime.ops import name_of


def origins(graph: fx.Graph) -> dict[fx.Node, frozenset[str]]:
    """The inputs that each value follows from; a size is none."""
    found: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        read = [] if name_of(node.target) == "aten::sym_size.int" else node.all_input_nodes
        found[node] = frozenset([node.name]) if node.op == "placeholder" else frozenset().union(*(found[n] for n in read))
    return found


def plain_values(known: Spatial, results: list[fx.Node]) -> set[fx.Node]:
    """Values that the results are read from as they are: these are kept as they are."""
    found, todo = set(), list(results)
    while todo:
        node = todo.pop()
        if node in found or node not in known.changes:
            continue
        found.add(node)
        shown = moves(node) or node not in known.layouts or known.seeing[node].kind == "whole"
        todo += node.all_input_nodes if shown else ()
    return found


def homes(graph: fx.Graph, known: Spatial, reaching: bool) -> dict[fx.Node, Region]:
    """Where each value that has places is computed: at the mask, or with `reaching` at all that it reaches."""
    found: dict[fx.Node, Region] = {}
    for node in graph.nodes:
        if node in known.layouts:
            found[node] = _home(node, known, found, reaching)
    return found


def _home(node: fx.Node, known: Spatial, others: dict[fx.Node, Region], reaching: bool) -> Region:
    grid, seeing = known.layouts[node].grid, known.seeing[node]
    found: Region = Edited(grid)
    if not reaching or seeing.kind == "whole":
        return found
    source, _ = unpadded(node.args[0]) if seeing.reach else (None, None)
    for n in (n for n in (*node.all_input_nodes, source) if n in others):
        if seeing.reach and n is source:
            found = wider(found, Touched(others[n], seeing.reach))
        elif known.layouts[n].grid == grid:
            found = wider(found, others[n])
    return found

"""In which order a prepared run goes: what follows from small inputs alone first, the same operators beside each other.

Each block of a transformer makes its modulations of the time and the class by a handful of small operators. After a block's
products their code has left the caches, and each takes 0.1 ms instead of 5 us; so all blocks' are done before the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

MOST_DIMENSIONS = 2  # of a time, a class, a pooled text; images and sequences have more


def small_ones(nodes: Sequence[fx.Node], inputs: Sequence[Tensor]) -> set[fx.Node]:
    """The `nodes` whose inputs are a number or a vector for each image, where there are larger ones beside them."""
    small = {node for node, given in zip(nodes, inputs, strict=True) if given.ndim <= MOST_DIMENSIONS}
    return small if len(small) < len(nodes) else set()


def early_first(nodes: Sequence[fx.Node], small: set[fx.Node]) -> list[fx.Node]:
    """The calls in `nodes`, those that follow from `small` alone first; equal to `nodes` where nothing does."""
    depth = dict.fromkeys(small, 0)
    early: list[fx.Node] = []
    for node in nodes:
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if small and all(n in depth for n in sources):
            depth[node] = 1 + max((depth[n] for n in sources), default=0)
            early.append(node)
    early.sort(key=lambda n: (depth[n], str(n.target)))
    return early + [n for n in nodes if n not in depth]

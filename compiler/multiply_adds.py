"""How many multiply-adds a product takes, by the shapes of what it multiplies."""

from __future__ import annotations

from math import prod

from torch import fx

from aquatint.compiler.spatial import Spatial
from aquatint.runtime.ops import name_of

ATTENTIONS = ("aten::scaled_dot_product_attention.default", "aquatint::attention")
OURS = ("aquatint::gemm", "aquatint::conv2d")
PRODUCTS = (
    *OURS, "aquatint::rowwise_linear", "aquatint::rowwise_conv2d", "aquatint::rowwise_matmul",
    *ATTENTIONS, "aten::matmul.default", "aten::linear.default",
)  # fmt: skip


def multiply_adds(known: Spatial, node: fx.Node) -> float:
    """Of the whole product; 0 for what is none."""
    shapes, name = known.shapes, name_of(node.target)
    if name not in PRODUCTS:
        return 0.0
    size = prod(shapes[node.name])
    if name in ATTENTIONS:
        query, key = (shapes[n.name] for n in node.args[:2])  # type: ignore[union-attr]
        return float(prod(query) * key[-2] * 2)
    if name in ("aten::matmul.default", "aquatint::rowwise_matmul"):
        return float(size * shapes[node.args[0].name][-1])  # type: ignore[union-attr]
    weight = shapes[node.args[2 if name in OURS else 1].name]  # type: ignore[union-attr]
    packed = 2 if name in OURS and "int4" in str(node.kwargs["formats"][1]) else 1  # type: ignore[index]
    return float(size * prod(weight[1:]) * packed)


def multiply_adds_before(known: Spatial, node: fx.Node) -> float:
    """Of the products right before a value, as much of them as it holds."""
    if name_of(node.target) in PRODUCTS:
        return multiply_adds(known, node)
    size = prod(known.shapes.get(node.name, ()))
    sources = [(n, prod(known.shapes.get(n.name, ()))) for n in node.all_input_nodes if n.op == "call_function"]
    return sum(multiply_adds_before(known, n) * min(1.0, size / max(1, whole)) for n, whole in sources)

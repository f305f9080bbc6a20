"""Bring together what one kernel can do at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from aquatint.compiler.edit import ITEM, changed_weight, is_call, product_below, source_of
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.runtime.ops import operator_named


@dataclass(frozen=True)
class Fuse:
    """Quantize, smooth and project in one read of x; the up-projection in the product's epilogue.

    Before:  %m = aten::mul.Tensor(%x, @g.smooth);  %h = aten::linear.default(%m, @g.down)
             %q = aquatint::quantize(%m, format='int8', axis=-1)                       # one for each sibling
             %r = aquatint::gemm(%q.0, %q.1, @a.codes, @a.scales, @a.bias, ...);  %u = aten::linear.default(%h, @a.up)
             %y = aten::add.Tensor(%r, %u)
    After:   %q = aquatint::quantize(%x, @g.smooth, @g.down, format='int8', axis=-1)   # one for all siblings
             %y = aquatint::gemm(%q.0, %q.1, @a.codes, @a.scales, @a.bias, %q.2, @a.up, ...)

    1. Quantizes of one input in one format become one.
    2. Smoothing goes into the quantize that is its only reader, but for the down-projection.
    3. The down-projection goes into the quantize of the same input. That of a k x k convolution becomes one product that
       gives each pixel's share through each tap; the convolution adds them up.
    4. The up-projection's add goes into the gemm or convolution.
    5. A weight that is only stored small and the linear that reads it become a gemm on plain numbers.
    """

    name: ClassVar[str] = "fuse"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        steps: tuple[Callable[[Program, fx.Node], bool], ...] = (
            _share_quantize,
            _take_down,
            _take_smooth,  # behind _take_down: until then the down-projection reads the smoothed input as well
            _take_up,
            _take_dequantize,
        )
        counts: dict[str, object] = {}
        for step in steps:
            done = sum(step(program, node) for node in list(program.graph.nodes) if not node._erased)
            program.drop_unused()
            counts[step.__name__.strip("_").replace("_", " ")] = done
        return Report(self.name, {"": counts})


def _share_quantize(program: Program, node: fx.Node) -> bool:
    if not is_call(node, "aquatint::quantize"):
        return False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for other in program.graph.nodes:
        if other is node:
            return False
        if is_call(other, "aquatint::quantize") and other.args == node.args and other.kwargs == node.kwargs:
            for user in list(node.users):
                twin = next((u for u in other.users if u.args[1:] == user.args[1:]), None)
                user.replace_all_uses_with(twin) if twin else user.update_arg(0, other)
            return True
    return False


def _take_down(program: Program, node: fx.Node) -> bool:
    """quantize(x) and linear(x, down) become quantize(x, None, down)."""
    if not is_call(node, "aquatint::quantize") or len(node.args) > 1:
        return False
    down = next((n for n in source_of(node).users if _is_down(program, n, node)), None)
    if down is None:
        return False
    weight = down.args[1]
    assert isinstance(weight, fx.Node)
    matrix = program.weights[str(weight.target)]
    with program.graph.inserting_before(node):
        by_tap = matrix if matrix.dim() == 2 else matrix.permute(2, 3, 0, 1).flatten(0, 2)
        new_weight = changed_weight(program, str(weight.target), by_tap.contiguous())
        new = program.graph.call_function(
            operator_named("aquatint::quantize"), (source_of(node), None, new_weight), node.kwargs
        )
        h = program.graph.call_function(operator_named(ITEM), (new, 2))
    node.replace_all_uses_with(new)
    down.replace_all_uses_with(h)
    # What reads h as an image of channels first is its up-projection alone, which _take_up removes.
    _move_before_readers(new, h)
    return True


def _is_down(program: Program, node: fx.Node, quantize: fx.Node) -> bool:
    if not (is_call(node, "aten::linear.default") or is_call(node, "aten::conv2d.default")) or len(node.args) < 2:
        return False
    weight = node.args[1]
    named = isinstance(weight, fx.Node) and str(weight.target).endswith(".down") and node.args[0] is source_of(quantize)
    if not named:
        return False
    pointwise = program.weights[str(weight.target)].shape[2:].numel() == 1  # type: ignore[union-attr]
    product = "aquatint::gemm" if pointwise else "aquatint::conv2d"
    return all(_feeds(up, product) for up in node.users)


def _feeds(up: fx.Node, product: str) -> bool:
    """Is this up-projection added to such a product, so that `_take_up` will take it?"""
    found = [product_below(user.args[0]) for user in up.users if is_call(user, "aten::add.Tensor")]
    return any(node is not None and is_call(node, product) for node in found)


def _move_before_readers(*nodes: fx.Node) -> None:
    """Siblings may stand before the quantize that now serves them; put it where its input is ready."""
    first = nodes[0]
    after = max(first.all_input_nodes, key=lambda n: _position(n))
    anchor = after
    for node in nodes:
        anchor.append(node)
        anchor = node


def _position(node: fx.Node) -> int:
    return next(i for i, n in enumerate(node.graph.nodes) if n is node)


def _take_smooth(program: Program, node: fx.Node) -> bool:
    if not is_call(node, "aquatint::quantize") or (len(node.args) > 1 and node.args[1] is not None):
        return False
    smoothed = source_of(node)
    if not is_call(smoothed, "aten::mul.Tensor") or len(smoothed.users) != 1:
        return False
    vector = smoothed.args[1]
    if not isinstance(vector, fx.Node) or vector.op != "get_attr":
        return False
    shape = program.weights[str(vector.target)].shape
    if shape[1:].numel() != 1:  # (K,) over tokens, (C, 1, 1) over an image: one factor a channel
        return False
    with program.graph.inserting_before(node):
        flat = changed_weight(program, str(vector.target), program.weights[str(vector.target)].flatten())
    node.args = (smoothed.args[0], flat, *node.args[2:])
    return True


def _take_up(program: Program, node: fx.Node) -> bool:
    """add(gemm, product(h, up)) becomes gemm(..., h, up), for the h of a quantize; and so for a convolution."""
    if not is_call(node, "aten::add.Tensor") or (gemm := product_below(node.args[0])) is None:
        return False
    up = node.args[1]
    if not (is_call(up, "aten::linear.default") or is_call(up, "aten::conv2d.default")):
        return False
    h, weight = up.args[:2]  # type: ignore[union-attr,misc]
    if not (is_call(h, ITEM) and is_call(h.args[0], "aquatint::quantize") and isinstance(weight, fx.Node)):  # type: ignore[union-attr]
        return False
    with program.graph.inserting_before(gemm):
        flat = changed_weight(program, str(weight.target), program.weights[str(weight.target)].flatten(1))
    gemm.args = (*gemm.args[:5], h, flat)
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return True


def _take_dequantize(program: Program, node: fx.Node) -> bool:
    if not is_call(node, "aten::linear.default") or node.kwargs:
        return False
    x, weight, *bias = node.args
    if not is_call(weight, "aquatint::dequantize"):
        return False
    stored, options = weight.args, weight.kwargs  # type: ignore[union-attr]
    with program.graph.inserting_before(node):
        new = program.graph.call_function(
            operator_named("aquatint::gemm"), (x, None, *stored, *bias),
            {"formats": [None, options["format"]], "dtype": options["dtype"]},
        )  # fmt: skip
    node.replace_all_uses_with(new)
    return True

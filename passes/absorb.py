"""Take what stands before a quantize into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from aquatint.compiler.edit import ITEM, activation_of, is_call, source_of
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.runtime.ops import operator_named
from aquatint.runtime.ops.meanings import ACTIVATIONS


@dataclass(frozen=True)
class Absorb:
    """Norm, modulation and activation in the quantize's one read of x.

    Before:  %n = aten::layer_norm.default(%x, [1152], None, None, 1e-06);  %m = aten::mul.Tensor(%n, %gain)
             %a = aten::add.Tensor(%m, %shift);  %q = aquatint::quantize(%a, @g.smooth, @g.down, format='int8', axis=-1)
    After:   %q = aquatint::quantize(%x, @g.smooth, @g.down, %gain, %shift, format='int8', axis=-1, eps=1e-06)

    1. GELU or SiLU.
    2. The transposition of an image's pixels to tokens.
    3. A group norm becomes aquatint::group_affine, whose gain and offset the quantize applies (as SIGE does, arXiv 2211.02048).
    4. The gain and offset of an adaptive layer norm.
    5. A layer norm; its own weight and bias are gain and offset.
    Leaves alone: what somebody else reads as well.
    """

    name: ClassVar[str] = "absorb"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        steps: tuple[Callable[[Program, fx.Node], bool], ...] = (
            _take_activation,  # from the quantize upwards
            _take_transposition,
            _take_group_norm,
            _take_modulation,
            _take_layer_norm,
        )
        counts: dict[str, object] = {}
        for step in steps:
            quantizes = [n for n in program.graph.nodes if is_call(n, "aquatint::quantize")]
            counts[step.__name__.strip("_").replace("_", " ")] = sum(step(program, node) for node in quantizes)
            program.drop_unused()
        return Report(self.name, {"": counts})


def _take_activation(program: Program, node: fx.Node) -> bool:
    """quantize(silu(x)) becomes quantize(x, activation='silu')."""
    source = source_of(node)
    name = activation_of(source)
    if name not in ACTIVATIONS or len(source.users) != 1:
        return False
    node.args = (source.args[0], *node.args[1:])
    node.kwargs = {**node.kwargs, "activation": name}
    return True


def _take_transposition(program: Program, node: fx.Node) -> bool:
    """quantize(transpose(x, 1, 2), axis=-1) becomes quantize(x, axis=1), for the (B, C, L) that an attention's norm reads."""
    source = source_of(node)
    if not _plain_rows(node) or not is_call(source, "aten::transpose.int") or len(source.users) != 1:
        return False
    norm = source_of(source)
    image = source_of(norm) if is_call(norm, "aten::group_norm.default") else norm
    flat = is_call(image, "aten::view.default") or is_call(image, "aten::reshape.default")
    if not flat or len(image.args[1]) != 3 or set(source.args[1:]) not in ({1, 2}, {-1, -2}):  # type: ignore[arg-type]
        return False
    node.args = (norm, *node.args[1:])
    node.kwargs = {**node.kwargs, "axis": 1}
    return True


def _take_group_norm(program: Program, node: fx.Node) -> bool:
    """quantize(group_norm(x)) becomes quantize(x, ..., gain, offset) with both from group_affine(x)."""
    if node.kwargs.get("axis") != 1:
        return False
    norm = source_of(node)
    if not is_call(norm, "aten::group_norm.default") or len(norm.users) != 1:
        return False
    x, groups, weight, bias, eps = _norm_arguments(norm)
    with program.graph.inserting_before(norm):
        affine = program.graph.call_function(operator_named("aquatint::group_affine"), (x, groups, weight, bias), {"eps": eps})
        parts = [program.graph.call_function(operator_named(ITEM), (affine, i)) for i in (0, 1)]
    node.args = _with_affine(node, x, *parts)
    return True


def _take_modulation(program: Program, node: fx.Node) -> bool:
    """quantize(layer_norm(x) * gain + offset) becomes quantize(layer_norm(x), ..., gain, offset)."""
    if not _plain_rows(node):
        return False
    added = source_of(node)
    if not is_call(added, "aten::add.Tensor") or len(added.users) != 1 or added.kwargs:
        return False
    for scaled, offset in (added.args, added.args[::-1]):
        if not is_call(scaled, "aten::mul.Tensor") or len(scaled.users) != 1:  # type: ignore[union-attr]
            continue
        for norm, gain in (scaled.args, scaled.args[::-1]):  # type: ignore[union-attr]
            vectors = isinstance(gain, fx.Node) and isinstance(offset, fx.Node)
            if vectors and is_call(norm, "aten::layer_norm.default") and all(v is None for v in norm.args[2:4]):  # type: ignore[union-attr]
                node.args = _with_affine(node, norm, gain, offset)
                return True
    return False


def _take_layer_norm(program: Program, node: fx.Node) -> bool:
    """quantize(layer_norm(x), ...) becomes quantize(x, ..., eps=...); the norm's own weight and bias are gain and offset."""
    if node.kwargs.get("activation") or node.kwargs.get("axis") != -1:
        return False
    norm = source_of(node)
    if not is_call(norm, "aten::layer_norm.default") or len(norm.users) != 1 or len(norm.args[1]) != 1:  # type: ignore[arg-type]
        return False
    x, _, weight, bias, eps = _norm_arguments(norm)
    if weight is not None or bias is not None:
        if not _plain_rows(node):
            return False
        node.args = _with_affine(node, x, weight, bias)
    node.args = (x, *node.args[1:])
    node.kwargs = {**node.kwargs, "eps": eps}
    return True


def _norm_arguments(norm: fx.Node) -> tuple[Any, ...]:
    """(x, groups or shape, weight, bias, eps), as aten::group_norm and aten::layer_norm both have them."""
    defaults = (None, None, 1e-5)
    return (*norm.args, *defaults[len(norm.args) - 2 :])[:5]


def _plain_rows(node: fx.Node) -> bool:
    """Does this quantize read rows of channels, with nothing taken in before it yet?"""
    untouched = all(v is None for v in node.args[3:5]) and not node.kwargs.get("activation")
    return bool(untouched and node.kwargs.get("axis") == -1)


def _with_affine(node: fx.Node, x: Any, gain: Any, offset: Any) -> tuple[Any, ...]:
    smooth, down = (*node.args[1:3], None, None)[:2]
    return x, smooth, down, gain, offset

"""Take what stands behind a product into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from aquatint.compiler.edit import activation_of, is_call, product_below
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.compiler.verify import faked
from aquatint.runtime import ops
from aquatint.runtime.ops.meanings import ACTIVATIONS

Known = dict[str, Tensor]


@dataclass(frozen=True)
class Epilogue:
    """Activation, gate and residual while the product's numbers are still in registers.

    Before:  %y = aquatint::gemm(%q.0, %q.1, ...);  %g = aten::gelu.default(%y)
             %o = aquatint::gemm(%p.0, %p.1, ...);  %m = aten::mul.Tensor(%gate, %o);  %z = aten::add.Tensor(%m, %x)
    After:   %g = aquatint::gemm(%q.0, %q.1, ..., activation='gelu')
             %z = aquatint::gemm(%p.0, %p.1, ..., gate=%gate, residual=%x)

    1. GELU or SiLU.
    2. A factor: the gate of an adaptive norm, a layer scale, the other half of a gated linear unit.
    3. An addend: the residual, or the time embedding of a convolution.
    Leaves alone: a product that somebody else reads as well; a product of plain numbers, which has few rows; what makes the
    result larger or changes its dtype.
    """

    name: ClassVar[str] = "epilogue"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        known = faked(program, list(context.calibration.calls[0]))
        steps: dict[str, Callable[[fx.Node], bool]] = {
            "activations": _take_activation,
            "gates": lambda node: _take_operand(node, "aten::mul.Tensor", "gate", known),
            "residuals": lambda node: _take_operand(node, "aten::add.Tensor", "residual", known),
        }
        counts: dict[str, object] = {}
        for name, step in steps.items():
            counts[name] = sum(step(node) for node in list(program.graph.nodes))
            program.drop_unused()
        return Report(self.name, {"": counts})


def _take_activation(node: fx.Node) -> bool:
    name = activation_of(node)
    if name not in ACTIVATIONS or (product := product_below(node.args[0])) is None or not _is_free(product, "activation"):
        return False
    product.kwargs = {**product.kwargs, "activation": name}
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return True


def _take_operand(node: fx.Node, operator: str, option: str, known: Known) -> bool:
    """operator(product, other) becomes product(..., option=other), and stands where `node` did: `other` may come late."""
    if not is_call(node, operator) or node.kwargs or len(node.args) != 2:
        return False
    for operand, other in (node.args, node.args[::-1]):
        product = product_below(operand)
        if product is None or not isinstance(other, fx.Node) or not _is_free(product, option):
            continue
        if product.kwargs["formats"][0] is None:  # type: ignore[index]
            continue
        if not _fits(operand, other, node, known):  # type: ignore[arg-type]
            continue
        for part in dict.fromkeys((product, operand)):
            node.prepend(part)  # type: ignore[arg-type]
        if operand is not product:
            with node.graph.inserting_before(product):
                order = _inverse(operand.args[1])  # type: ignore[union-attr,arg-type]
                other = node.graph.call_function(operand.target, (other, order))  # type: ignore[union-attr,arg-type]
        product.kwargs = {**product.kwargs, option: other}
        node.replace_all_uses_with(operand)  # type: ignore[arg-type]
        return True
    return False


def _is_free(product: fx.Node, option: str) -> bool:
    """Can this product still take it? What it has taken already must come before."""
    return all(product.kwargs.get(name) is None for name in ops.EPILOGUE[ops.EPILOGUE.index(option) :])


def _fits(operand: fx.Node, other: fx.Node, node: fx.Node, known: Known) -> bool:
    y, result, addend = known.get(operand.name), known.get(node.name), known.get(other.name)
    if y is None or result is None or addend is None:
        return False
    movable = addend.dim() == y.dim() or not is_call(operand, "aten::permute.default")
    return movable and result.dtype == y.dtype and result.shape == y.shape


def _inverse(order: list[int]) -> list[int]:
    """The permutation that takes `order` back."""
    return sorted(range(len(order)), key=lambda i: order[i])

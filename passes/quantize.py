"""Store what is left of each weight in a few bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx

from aquatint.compiler.edit import new_weight
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.formats import Encoded, format_named
from aquatint.compiler.gptq import gptq, shrunk
from aquatint.compiler.numerics import total
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.plan import Group
from aquatint.compiler.problem import Problem, problem_of, split_rows
from aquatint.compiler.program import Program, Site
from aquatint.compiler.statistics import convolution_geometry
from aquatint.runtime.ops import operator_named


@dataclass(frozen=True)
class Quantize:
    """Weights to codes and scales, inputs quantized on the fly, each in the formats of the site's treatment.

    Before:  %y = aten::linear.default(%x, @to_q.weight, @to_q.bias)
    After:   %q = aquatint::quantize(%x, format='int8', axis=-1)
             %y = aquatint::gemm(%q.0, %q.1, @to_q.codes, @to_q.scales, @to_q.bias, formats=['int8', 'int4-g64'], ...)

    1. method "rtn" rounds to nearest; "gptq" rounds column by column and corrects the columns to come (arXiv 2210.17323).
    2. A 1 x 1 convolution becomes a gemm over its pixels; another convolution becomes aquatint::conv2d.
    3. Where only weights are treated, aquatint::dequantize stands before the product as it was.
    Reports each site's relative output error and signal-to-quantization-noise ratio on `rows` sample rows.
    """

    method: str = "gptq"
    rows: int = 512
    name: ClassVar[str] = "quantize"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in ("rtn", "gptq"):
            raise RecipeError(f"quantize knows the methods rtn and gptq, not {self.method!r}")

    def run(self, program: Program, context: Context) -> Report:
        found: dict[str, dict[str, Any]] = {}
        encoded: list[tuple[Site, Group, Encoded]] = []
        use_gram = self.method == "gptq"
        for group, seen in context.sweep("quantize", program, context.groups(program), self.rows, use_gram):
            stacked = problem_of(program, group, seen)
            weight_format = stacked.weights_format
            gram = None if seen.gram is None else shrunk(seen.gram, seen.count)
            for site, rows in split_rows(group, stacked.weight):
                codes = weight_format.encode(rows) if gram is None else gptq(rows, gram, weight_format)
                encoded.append((site, group, codes))
                problem = Problem(seen.rows, rows, weight_format, stacked.inputs_format, 0)
                found[site.name] = _errors(program, group, site, problem, weight_format.decode(*codes))
        for site, group, codes in encoded:
            _apply(program, site, group, codes)
        return Report(self.name, found)


def _errors(program: Program, group: Group, site: Site, problem: Problem, stored: Tensor) -> dict[str, Any]:
    error = problem.error(problem.weight, stored)
    whole = problem.weight.flatten(1)
    if f"{site.name}.up" in program.weights:
        down, up = program.weights[f"{group.name}.down"].float(), program.weights[f"{site.name}.up"].float()
        whole = whole + up.flatten(1) @ site_rows(group.sites[0], down).flatten(1)
    signal = total((problem.rows.flatten(1) @ whole.T).square())
    ratio = math.sqrt(error / signal) if signal else 0.0
    return {"error": ratio, "sqnr": -20 * math.log10(ratio) if ratio else None, "squared error": error}


def site_rows(site: Site, weight: Tensor) -> Tensor:
    """A weight with `site`'s input, but any number of outputs, in rows."""
    return weight.unsqueeze(1) if site.kind == "linear" else weight.permute(0, 2, 3, 1).flatten(1, 2)


def _apply(program: Program, site: Site, group: Group, encoded: Encoded) -> None:
    node = program.node_of(site)
    weight = program.weights[site.weight]
    kernel = () if site.kind == "linear" or _is_gemm(site, node) else site.kernel
    codes, scales = (t.reshape(site.outputs, *kernel, -1).contiguous() for t in encoded)
    call = program.graph.call_function
    with program.graph.inserting_before(node):
        stored = (
            new_weight(program, f"{site.name}.codes", codes),
            new_weight(program, f"{site.name}.scales", scales),
        )
        if group.treatment.activations is None:
            node.update_arg(1, _dequantized(program, stored, group.treatment.weights, weight))
            return
        formats = [group.treatment.activations, group.treatment.weights]
        source = call(operator_named("aquatint::quantize"), (node.args[0],), {"format": formats[0], "axis": site.axis})
        item = operator_named("python::getitem")
        inputs = call(item, (source, 0)), call(item, (source, 1))
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        options: dict[str, Any] = {"formats": formats, "dtype": weight.dtype}
        if _is_gemm(site, node):
            new = call(operator_named("aquatint::gemm"), (*inputs, *stored, bias), options)
            if site.kind == "conv2d":
                new = call(operator_named("aten::permute.default"), (new, [0, 3, 1, 2]))
        else:
            geometry: dict[str, Any] = dict(zip(("stride", "padding", "dilation"), convolution_geometry(node), strict=True))
            new = call(operator_named("aquatint::conv2d"), (*inputs, *stored, bias), options | geometry)
    node.replace_all_uses_with(new)
    program.graph.erase_node(node)


def _is_gemm(site: Site, node: fx.Node) -> bool:
    """A linear, or a convolution that reads each pixel once."""
    if site.kind == "linear":
        return True
    stride, padding, _ = convolution_geometry(node)
    return site.taps == 1 and stride == [1, 1] and padding == [0, 0]


def _dequantized(program: Program, stored: tuple[fx.Node, fx.Node], format: str, weight: Tensor) -> fx.Node:
    call = program.graph.call_function
    node = call(operator_named("aquatint::dequantize"), stored, {"format": format_named(format).name, "dtype": weight.dtype})
    if weight.dim() == 2:
        return node
    if program.weights[str(stored[0].target)].dim() == 2:
        return call(operator_named("aten::view.default"), (node, list(weight.shape)))
    return call(operator_named("aten::permute.default"), (node, [0, 3, 1, 2]))

"""Every node of our domain in an ONNX graph replaced by nodes that onnxruntime's CPU provider runs fast."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from aquatint.runtime.ops import ATTENTION, DOMAIN, OURS
from aquatint.runtime.ort.attention import attention
from aquatint.runtime.ort.convolution import conv2d
from aquatint.runtime.ort.fixed import Range
from aquatint.runtime.ort.graph import MICROSOFT, Call, Writer
from aquatint.runtime.ort.linear import gemm
from aquatint.runtime.ort.options import OrtOptions
from aquatint.runtime.ort.source import GroupNorm, Source, source_of
from aquatint.runtime.ort.weights import dequantized

KNOWN_FORMATS = ("int4-g64", "int4-g64-whole", "int8")


def refusals(model: ir.Model) -> list[str]:
    """A line for each node that can't be written for onnxruntime, with the reason."""
    found: list[str] = []
    for node in (n for n in model.graph if n.domain == DOMAIN and n.op_type != ATTENTION):
        call = _call(node)
        formats = [*call.options.get("formats", ()), *([call.options["format"]] if call.flag("format") else [])]
        unknown = [f for f in formats if f and f not in KNOWN_FORMATS]
        if unknown:
            found.append(f"{node.name} ({call.operator.name}): no way to compute with {', '.join(unknown)}")
    return found


def lower(model: ir.Model, options: OrtOptions, ranges: Mapping[str, tuple[Range, Range]]) -> None:
    """Rewrites `model` in place. `ranges` are those of a convolution's input and result, by the name of its weight."""
    graph = model.graph
    norms: dict[ir.Value, GroupNorm] = {}
    sources: dict[ir.Value, Source] = {}
    done: list[ir.Node] = []
    exact = options.weights == "w4-nbits" or not any(n.domain == DOMAIN and n.op_type == "quantize" for n in graph)
    for node in [n for n in graph if n.domain == DOMAIN]:
        if node.op_type == ATTENTION:
            write = Writer(graph, node.name or "", ATTENTION)
            _replace(graph, *attention(write, node))
            graph.insert_before(node, write.nodes)
            done.append(node)
            continue
        call = _call(node)
        name = call.operator.__name__
        write = Writer(graph, _site(call), name)
        if name == "group_affine":
            x = call.inputs["x"]
            assert x is not None
            norms[call.results[0]] = GroupNorm(
                x, call.options["groups"], call.array("weight"), call.array("bias"), call.options["eps"]
            )
        elif name == "quantize":
            sources[call.results[0]] = source_of(write, call, norms)
        else:
            _replace(graph, node.outputs[0], _lowered(write, call, sources, options, ranges, exact))
        graph.insert_before(node, write.nodes)
        done.append(node)
    RemoveUnusedNodesPass()(model)
    left = [node for node in done if node.graph is not None]
    assert not left, f"still read: {left}"
    model.opset_imports.pop(DOMAIN, None)
    if any(n.domain == MICROSOFT for n in graph):
        model.opset_imports[MICROSOFT] = 1


def _call(node: ir.Node) -> Call:
    return Call.of(node, OURS[f"{DOMAIN}::{node.op_type}"])


def _site(call: Call) -> str:
    """The user's name of what the call computes, from the names of its weights."""
    for key in ("weight", "codes", "smooth", "down"):
        value = call.inputs.get(key)
        if value is not None and value.const_value is not None and value.name:
            return value.name.rpartition(".")[0]
    return call.results[0].name or call.operator.__name__


def _lowered(
    write: Writer, call: Call, sources: dict[ir.Value, Source], options: OrtOptions, ranges: Mapping[str, tuple[Range, Range]],
    exact: bool,
) -> ir.Value:  # fmt: skip
    name = call.operator.__name__
    if name == "dequantize":
        return dequantized(write, call)
    codes = call.inputs["codes"]
    assert codes is not None
    source = sources.get(codes) or Source(write.site, codes, -1, len(codes.shape or ()), exact=exact)  # plain numbers
    if name == "gemm":
        return gemm(write, call, source, options, ranges.get(write.site))
    return conv2d(write, call, source, options, ranges.get(write.site))


def _replace(graph: ir.Graph, old: ir.Value, made: ir.Value) -> None:
    made.shape, made.type = old.shape, old.type
    if old in graph.outputs:
        made.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)

"""Attention without a mask, by onnxruntime's own operator: heads are not transposed, nor the scores written to memory."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from aquatint.runtime.ort.graph import MICROSOFT, Writer

HEADS_FIRST = (0, 2, 1, 3)


def attention(write: Writer, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """(what is replaced, by what) for softmax(scale q kᵀ) v of (B, heads, tokens, width).

    Where q, k and v are heads that were split off tokens (B, tokens, heads width), these are read as they were; and where the
    result is only put together to tokens again, it stays so.
    """
    query = node.inputs[0]
    assert query is not None
    assert query.shape is not None
    heads, width = (int(query.shape[i]) for i in (1, 3))  # type: ignore[arg-type]
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else 1 / math.sqrt(width)
    tokens = [_tokens(write, value) for value in node.inputs]
    y = write("MultiHeadAttention", *tokens, domain=MICROSOFT, num_heads=heads, scale=scale)
    if (joined := _joined(node.outputs[0])) is not None:
        return joined, y
    split = write("Reshape", y, write.indices(0, 0, heads, -1))
    return node.outputs[0], write("Transpose", split, perm=HEADS_FIRST)


def _tokens(write: Writer, value: ir.Value | None) -> ir.Value:
    """(B, heads, tokens, width) as (B, tokens, heads width)."""
    assert value is not None
    assert value.shape is not None
    transpose = value.producer()
    if _swaps_heads(transpose):
        split = transpose.inputs[0]  # type: ignore[union-attr]
        reshape = split.producer() if split is not None else None
        whole = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if whole is not None and _is_tokens(whole, int(value.shape[1]) * int(value.shape[3])):  # type: ignore[arg-type]
            return whole
    last = write("Transpose", value, perm=HEADS_FIRST)
    return write("Reshape", last, write.indices(0, 0, -1))


def _is_tokens(whole: ir.Value, width: int) -> bool:
    return whole.shape is not None and len(whole.shape) == 3 and whole.shape[2] == width


def _swaps_heads(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == HEADS_FIRST


def _joined(result: ir.Value) -> ir.Value | None:
    """The tokens (B, tokens, heads width) that are made of the heads, if nothing else is."""
    users: Any = result.consumers()
    if len(users) != 1 or not _swaps_heads(users[0]):
        return None
    users = users[0].outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Reshape":
        return None
    joined = users[0].outputs[0]
    return joined if joined.shape is not None and len(joined.shape) == 3 else None

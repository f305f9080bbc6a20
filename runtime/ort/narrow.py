"""Floats that fit into 16 bits are stored in 16: onnxruntime widens them once, when it loads the file."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

FEWEST = 64  # numbers: below this the node that widens is larger than what it saves


def narrow(model: ir.Model) -> None:
    """Exchange float32 initializers for float16 or bfloat16 ones with a Cast behind them, where nothing is lost by it."""
    graph, casts = model.graph, []
    for value in list(graph.initializers.values()):
        found = _narrowest(value.const_value.numpy()) if _is_float(value) else None  # type: ignore[union-attr]
        if found is None:
            continue
        name = f"{value.name}.16"
        small = ir.Value(
            name=name, shape=ir.Shape(found.shape), type=ir.TensorType(ir.DataType.from_numpy(found.dtype)),
            const_value=ir.Tensor(found, name=name),
        )  # fmt: skip
        cast = ir.node("Cast", [small], {"to": int(ir.DataType.FLOAT)}, num_outputs=1)
        wide = cast.outputs[0]
        wide.shape, wide.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, wide)
        graph.initializers.pop(str(value.name))
        graph.register_initializer(small)
        wide.name, cast.name = value.name, f"{value.name}/widen"
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)


def _is_float(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= FEWEST


def _narrowest(array: np.ndarray) -> np.ndarray | None:
    for kind in (np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            small = array.astype(kind)
        if np.array_equal(small.astype(np.float32), array):
            return small
    return None

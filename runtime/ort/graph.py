"""What all lowerings write with: nodes, constants, and one call of ours as it stands in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from aquatint.runtime.ops import Operator

MICROSOFT = "com.microsoft"  # onnxruntime's own operators
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # of images


@dataclass(frozen=True)
class Call:
    """A node of ours: its tensors by the names of the operator's schema (absent ones are None), its options, its results."""

    operator: Operator
    inputs: Mapping[str, ir.Value | None]
    options: Mapping[str, Any]
    results: tuple[ir.Value, ...]

    @staticmethod
    def of(node: ir.Node, operator: Operator) -> Call:
        names = operator.tensors
        values = [*node.inputs, *[None] * (len(names) - len(node.inputs))]
        options = {name: attribute.value for name, attribute in node.attributes.items()}
        return Call(operator, dict(zip(names, values, strict=True)), options, tuple(node.outputs))

    def array(self, name: str) -> np.ndarray | None:
        """A weight among the inputs as float32, or as the bytes that it is; None for an absent one."""
        value = self.inputs[name]
        if value is None or value.const_value is None:
            return None
        found = value.const_value.numpy()
        return found if found.dtype in (np.uint8, np.int8) else found.astype(np.float32)

    def flag(self, name: str) -> str:
        """An option that is a word, or nothing."""
        return str(self.options.get(name) or "")


@dataclass
class Writer:
    """Collects the nodes that replace one call of `operator` at `site`; constants go into the graph and are shared by name."""

    graph: ir.Graph
    site: str
    operator: str
    nodes: list[ir.Node] = field(default_factory=list)

    def __call__(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        return self.many(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def many(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=outputs)
        node.name = f"{self.site}/{self.operator}/{kind}_{len(self.nodes)}"
        for place, value in enumerate(node.outputs):
            value.name = f"{node.name}:{place}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, array: Any, name: str) -> ir.Value:
        """`array` as an initializer; one of this name that is there already is taken."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        array = np.asarray(array)
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.Tensor(array, name=name),
        )  # fmt: skip
        self.graph.register_initializer(value)
        return value

    def number(self, value: float, dtype: Any = np.float32) -> ir.Value:
        """A scalar."""
        return self.constant(np.asarray(value, dtype), f"number.{np.dtype(dtype).name}.{value}")

    def indices(self, *values: int) -> ir.Value:
        """A small vector of int64: axes, shapes, repeats."""
        return self.constant(np.asarray(values, np.int64), "indices." + ".".join(map(str, values)))

    def cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        return self("Cast", value, to=int(to))

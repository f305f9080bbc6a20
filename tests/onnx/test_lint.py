"""What `lint` finds in files that are made slow on purpose, and that it finds nothing in ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from aquatint.__main__ import main
from aquatint.export import export_onnx
from aquatint.runtime.ort.lint import RULES, LintError, lint

from .common import compressed

RANDOM = np.random.default_rng(0)


class Graph:
    """A small ONNX model, node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def save(self, path: Path, shape: list[Any], result: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [result], ["y"], name="last"))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def widened(g: Graph, shape: tuple[int, ...], axis: int) -> str:
    """A weight of bytes and the node that makes floats of it."""
    scales = np.full(shape[axis], 0.01, np.float32)
    codes = RANDOM.integers(-100, 100, shape).astype(np.int8)
    return g.op("DequantizeLinear", g.constant(codes), g.constant(scales), axis=axis)


def integer_convolution(g: Graph) -> tuple[list[Any], str]:
    codes, scale, zero = g.op("DynamicQuantizeLinear", "x", outputs=3)
    weight = g.constant(RANDOM.integers(0, 200, (8, 8, 3, 3)).astype(np.uint8))
    y = g.op("ConvInteger", codes, weight, zero, pads=[1, 1, 1, 1])
    return [1, 8, 8, 8], g.op("Mul", g.op("Cast", y, to=TensorProto.FLOAT), scale)


def widened_convolution(g: Graph) -> tuple[list[Any], str]:
    return [1, 8, 8, 8], g.op("Conv", "x", widened(g, (8, 8, 3, 3), 0))


def transposed(g: Graph) -> tuple[list[Any], str]:
    codes = g.constant(RANDOM.integers(-7, 8, (64, 64)).astype(ml_dtypes.int4))
    weight = g.op("DequantizeLinear", codes, g.constant(np.ones((64, 2), np.float32)), axis=1, block_size=32)
    return [64, 64], g.op("MatMul", "x", g.op("Transpose", weight, perm=[1, 0]))


def many_rows(g: Graph) -> tuple[list[Any], str]:
    packed, scales = np.zeros((64, 1, 32), np.uint8), np.ones(64, np.float32)
    attributes = {"K": 64, "N": 64, "bits": 4, "block_size": 64}
    y = g.op("MatMulNBits", "x", g.constant(packed), g.constant(scales), domain="com.microsoft", **attributes)
    return ["rows", 64], y


def quantized_softmax(g: Graph) -> tuple[list[Any], str]:
    def through(value: str) -> str:
        scale, zero = g.constant(np.float32(0.01)), g.constant(np.uint8(0))
        return g.op("DequantizeLinear", g.op("QuantizeLinear", value, scale, zero), scale, zero)

    return [1, 64, 64], through(g.op("Softmax", through("x")))


def there_and_back(g: Graph) -> tuple[list[Any], str]:
    scale, zero = g.constant(np.float32(0.01)), g.constant(np.uint8(128))
    back = g.op("DequantizeLinear", g.op("QuantizeLinear", "x", scale, zero), scale, zero)
    return [64, 64], g.op("Erf", back)


SLOW = {
    "integer convolution": integer_convolution,
    "weight widened for a convolution": widened_convolution,
    "weight transposed after it is widened": transposed,
    "narrow weights for many rows": many_rows,
    "quantized softmax": quantized_softmax,
    "to bytes and back": there_and_back,
}


@pytest.mark.parametrize("name", SLOW)
def test_finds(name: str, tmp_path: Path) -> None:
    graph = Graph()
    shape, result = SLOW[name](graph)
    found = lint(graph.save(tmp_path / "m.onnx", shape, result), {"rows": 100}, threads=1, runs=2)
    assert name in [f.rule.name for f in found.findings]
    assert all(f.ms >= 0 and f.node for f in found.findings)


def test_few_rows_are_what_matmulnbits_is_for(tmp_path: Path) -> None:
    graph = Graph()
    path = graph.save(tmp_path / "m.onnx", *many_rows(graph))
    assert not lint(path, {"rows": 4}, threads=1, runs=2).findings


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_nothing_to_find_in_ours(tmp_path: Path) -> None:
    """No weight is widened while the model runs, no softmax is quantized, and no 4-bit product has many rows."""
    for name in ("unet2d", "dit"):
        path = export_onnx(compressed(name), tmp_path / name).path
        found = lint(path, {"s0": 2, "s1": 16, "s2": 16}, threads=2, runs=2)
        assert not found.findings, [(f.rule.name, f.node) for f in found.findings]
        assert "DynamicQuantizeMatMul" in found.operators or "MatMulIntegerToFloat" in found.operators
        assert ("QLinearConv" in found.operators) == (name == "unet2d")
        assert "ConvInteger" not in found.operators


def test_without_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    ones = graph.constant(np.ones(8, np.float32))
    y = graph.op("GroupNorm", "x", ones, ones, domain="com.microsoft", groups=2, activation=1)
    path = graph.save(tmp_path / "m.onnx", [1, 8, 8, 8], graph.op("NhwcConv", y, ones, domain="com.microsoft"))
    with pytest.raises(LintError, match=r"(?s)no kernel for 2 nodes.*n0: com.microsoft.GroupNorm.*n1: com.microsoft.NhwcConv"):
        lint(path, {})
    assert main(["lint", str(path)]) == 2
    assert "com.microsoft.GroupNorm" in capsys.readouterr().err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    path = graph.save(tmp_path / "m.onnx", *widened_convolution(graph))
    assert main(["lint", str(path), "--runs", "2"]) == 1
    out = capsys.readouterr().out
    assert "weight widened for a convolution" in out
    assert "mend" in out
    assert main(["lint", str(tmp_path / "nothing.onnx")]) == 2
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    assert main(["lint", str(tmp_path / "junk.onnx")]) == 2
    assert main(["lint", str(path), "--size", "rows"]) == 2
    err = capsys.readouterr().err
    assert "is no file" in err
    assert "junk.onnx" in err
    assert "--size takes NAME=N" in err


def test_free_dimensions_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    path = graph.save(tmp_path / "m.onnx", ["rows", None], graph.op("Add", "x", graph.constant(np.ones(5, np.float32))))
    assert main(["lint", str(path)]) == 2
    assert "taken as rows=2, x[1]=32: set others with --size NAME=N" in capsys.readouterr().err
    assert main(["lint", str(path), "--size", "x[1]=5", "--runs", "1"]) == 0

"""Weights of four bits that onnxruntime turns into bytes when it loads the file.

The product runs on bytes (a VNNI instruction takes bytes, not nibbles). What the file holds are the codes, their scales by
groups and the low-rank branch; Cast, Mul, Add, Round and Cast behind them are folded by onnxruntime into one INT8 initializer.
So the branch is part of the bytes, and costs nothing when the model runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from aquatint.compiler.formats import NumberFormat, format_named, unpack_nibbles
from aquatint.runtime.ort.graph import Call, Writer
from aquatint.runtime.ort.source import Source

LARGEST = 127  # of a byte's code


@dataclass(frozen=True)
class Steps:
    """Scales of groups (..., G) in the file's type, and of rows (..., 1) on top of them where a format has both."""

    groups: np.ndarray
    rows: np.ndarray | None = None

    @staticmethod
    def of(row: NumberFormat, scales: np.ndarray) -> Steps:
        """As a format stores them."""
        if row.scale != "whole":
            return Steps(scales.astype(ml_dtypes.bfloat16 if row.scale == "bfloat16" else np.float32))
        rows, groups = row.split_scales(torch.from_numpy(scales))
        return Steps(groups.to(torch.uint8).numpy(), rows.numpy())

    def laid(self, arrange: Callable[[np.ndarray], np.ndarray]) -> Steps:
        """Each array with its axes elsewhere."""
        return Steps(arrange(self.groups), None if self.rows is None else arrange(self.rows))

    def numbers(self) -> np.ndarray:
        """What codes are multiplied with, in float32."""
        return self.groups.astype(np.float32) * (1 if self.rows is None else self.rows)

    def written(self, write: Writer, name: str) -> ir.Value:
        """The same, in a file."""
        groups = write.constant(self.groups, name)
        groups = groups if self.groups.dtype == np.float32 else write.cast(groups, ir.DataType.FLOAT)
        return groups if self.rows is None else write("Mul", groups, write.constant(self.rows, f"{name}.rows"))


@dataclass(frozen=True)
class Stored:
    """A weight as the program holds it: codes (N, T, K) int8, steps (N, T, G); a branch up (N, r), down (T, r, K) or None.

    T are the taps of a convolution, 1 for a linear; G the groups of K that share a scale. `smooth` (K,) belongs to the weight
    where the input is not smoothed.
    """

    name: str
    bits: int
    codes: np.ndarray
    steps: Steps
    up: np.ndarray | None
    down: np.ndarray | None
    smooth: np.ndarray | None
    branch_name: str = ""

    @staticmethod
    def of(call: Call, source: Source, smooth: np.ndarray | None = None) -> Stored:
        """The weight of a gemm or conv2d that reads `source`, which knows the down-projection (T r, K); `smooth` (K,) is to be
        given where the input is not smoothed."""
        value = call.inputs["weight"]
        assert value is not None
        assert value.name
        codes, scales = call.array("weight"), call.array("weight_scales")
        assert codes is not None
        assert scales is not None
        row = format_named(call.options["formats"][1])
        codes = unpacked(codes) if row.bits == 4 else codes
        codes, scales = (a.reshape(len(a), -1, a.shape[-1]) for a in (codes, scales))
        steps = Steps.of(row, scales)
        up, down = call.array("up"), source.down
        if up is None or down is None:
            return Stored(value.name.removesuffix(".codes"), row.bits, codes, steps, None, None, smooth)
        up = up.reshape(len(up), -1)
        down = down.reshape(codes.shape[1], up.shape[1], codes.shape[2])
        return Stored(value.name.removesuffix(".codes"), row.bits, codes, steps, up, down, smooth, source.name)

    @property
    def group(self) -> int:
        return self.codes.shape[-1] // self.steps.groups.shape[-1]

    def dense(self) -> np.ndarray:
        """The whole weight (T K, N) in float32, with its branch, for an input that is not smoothed."""
        weight = (self.codes.astype(np.float32) * np.repeat(self.steps.numbers(), self.group, -1)).transpose(1, 2, 0)
        weight = weight.reshape(-1, len(self.codes))
        weight = weight if self.up is None else weight + self.tall() @ self.up.T
        return weight if self.smooth is None else weight * np.tile(self.smooth.reshape(-1), self.codes.shape[1])[:, None]

    def tall(self) -> np.ndarray:
        """The down-projection as (T K, r)."""
        assert self.down is not None
        return self.down.transpose(0, 2, 1).reshape(-1, self.down.shape[1])


def unpacked(codes: np.ndarray) -> np.ndarray:
    """Two's complement nibbles (..., K / 2) as int8 (..., K)."""
    return (unpack_nibbles(torch.from_numpy(codes)).to(torch.int8) << 4 >> 4).numpy()


def bytes_of(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The weight as int8 (T K, N) with a scale (N,) for each output: what `folded` becomes when it is loaded."""
    dense = stored.dense()
    scales = byte_scales(dense)
    return np.rint(dense / scales).astype(np.int8), scales


def byte_scales(dense: np.ndarray) -> np.ndarray:
    """A scale (N,) for each output of a weight (K, N)."""
    return (np.maximum(np.abs(dense).max(0), 1e-30) / LARGEST).astype(np.float32)


def folded(write: Writer, stored: Stored) -> tuple[ir.Value, np.ndarray]:
    """(int8 value [T K, N], scales (N,)): four bits in the file, bytes once it is loaded."""
    outputs, taps, width = stored.codes.shape
    name, scales = stored.name, byte_scales(stored.dense())
    grouped = stored.codes.transpose(1, 2, 0).reshape(taps, -1, stored.group, outputs)
    codes = write.constant(grouped.astype(ml_dtypes.int4), f"{name}.int4")
    steps = stored.steps.laid(lambda a: a.transpose(1, 2, 0)[:, :, None]).written(write, f"{name}.int4_scales")
    weight = write("Mul", write.cast(codes, ir.DataType.FLOAT), steps)
    weight = write("Reshape", weight, write.indices(taps, width, outputs))
    if stored.up is not None:
        down, up = (write.cast(value, ir.DataType.FLOAT) for value in branch(write, stored))
        down = down if taps == 1 else write("Reshape", down, write.indices(taps, width, -1))
        weight = write("Add", weight, write("MatMul", down, up))
    if stored.smooth is not None:
        weight = write("Mul", weight, write.constant(stored.smooth.reshape(-1, 1), f"{name}.smooth_column"))
    weight = write("Round", write("Div", weight, write.constant(scales, f"{name}.byte_scales")))
    weight = write("Reshape", weight, write.indices(taps * width, outputs))
    return write.cast(weight, ir.DataType.INT8), scales


def branch(write: Writer, stored: Stored) -> tuple[ir.Value, ir.Value]:
    """Down [T K, r] and up [r, N] in bfloat16, as they were rounded before the residual was taken."""
    assert stored.up is not None
    down = write.constant(stored.tall().astype(ml_dtypes.bfloat16), f"{stored.branch_name}.down_t")
    return down, write.constant(stored.up.T.astype(ml_dtypes.bfloat16), f"{stored.name}.up_t")


def dequantized(write: Writer, call: Call) -> ir.Value:
    """A weight that is only stored small: floats once the file is loaded; or rows that were looked up in one."""
    row, value = format_named(call.options["format"]), call.inputs["codes"]
    codes, scales = call.array("codes"), call.array("scales")
    assert value is not None
    if codes is None or scales is None:
        factor = call.inputs["scales"]
        assert row.bits == 8
        assert factor is not None
        return write("Mul", write.cast(value, ir.DataType.FLOAT), factor)
    small = unpacked(codes).astype(ml_dtypes.int4) if row.bits == 4 else codes
    steps = Steps.of(row, scales).laid(lambda a: a[..., None])
    grouped = small.reshape(*steps.groups.shape[:-1], -1)
    wide = write.cast(write.constant(grouped, f"{value.name}.grouped"), ir.DataType.FLOAT)
    return write("Reshape", write("Mul", wide, steps.written(write, f"{value.name}.steps")), write.indices(*small.shape))

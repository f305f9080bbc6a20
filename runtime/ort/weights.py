"""Weights of four bits that onnxruntime turns into bytes when it loads the file.

The product runs on bytes (a VNNI instruction takes bytes, not nibbles). What the file holds are the codes, their scales by
groups and the low-rank branch; Cast, Mul, Add, Round and Cast behind them are folded by onnxruntime into one INT8 initializer.
So the branch is part of the bytes, and costs nothing when the model runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from aquatint.compiler.formats import format_named, unpack_nibbles
from aquatint.runtime.ort.graph import Call, Writer
from aquatint.runtime.ort.source import Source

LARGEST = 127  # of a byte's code


@dataclass(frozen=True)
class Stored:
    """A weight as the program holds it: codes (N, T, K) int8, scales (N, T, G); a branch up (N, r), down (T, r, K) or None.

    T are the taps of a convolution, 1 for a linear; G the groups of K that share a scale. `smooth` (K,) belongs to the weight
    where the input is not smoothed.
    """

    name: str
    bits: int
    codes: np.ndarray
    scales: np.ndarray
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
        up, down = call.array("up"), source.down
        if up is None or down is None:
            return Stored(value.name.removesuffix(".codes"), row.bits, codes, scales, None, None, smooth)
        up = up.reshape(len(up), -1)
        down = down.reshape(codes.shape[1], up.shape[1], codes.shape[2])
        return Stored(value.name.removesuffix(".codes"), row.bits, codes, scales, up, down, smooth, source.name)

    @property
    def group(self) -> int:
        return self.codes.shape[-1] // self.scales.shape[-1]

    def dense(self) -> np.ndarray:
        """The whole weight (T K, N) in float32, with its branch, for an input that is not smoothed."""
        weight = (self.codes.astype(np.float32) * np.repeat(self.scales, self.group, -1)).transpose(1, 2, 0)
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
    steps = stored.scales.transpose(1, 2, 0)[:, :, None].astype(ml_dtypes.bfloat16)
    steps = write.cast(write.constant(steps, f"{name}.int4_scales"), ir.DataType.FLOAT)
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
    """A weight that is only stored small: floats once the file is loaded."""
    row, value = format_named(call.options["format"]), call.inputs["codes"]
    codes, scales = call.array("codes"), call.array("scales")
    assert value is not None
    assert codes is not None
    assert scales is not None
    small = unpacked(codes).astype(ml_dtypes.int4) if row.bits == 4 else codes
    grouped = small.reshape(*scales.shape, -1)
    wide = write.cast(write.constant(grouped, f"{value.name}.grouped"), ir.DataType.FLOAT)
    steps = scales[..., None].astype(ml_dtypes.bfloat16 if row.scale == "bfloat16" else np.float32)
    factor = write.constant(steps, f"{value.name}.steps")
    factor = write.cast(factor, ir.DataType.FLOAT) if row.scale == "bfloat16" else factor
    return write("Reshape", write("Mul", wide, factor), write.indices(*small.shape))

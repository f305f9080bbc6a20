"""A linear: bytes times bytes with a scale for each output; MatMulNBits for few rows; plain floats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from aquatint.runtime.ort.fixed import Range, fixed_convolution
from aquatint.runtime.ort.graph import TO_CHANNELS_LAST, Call, Writer
from aquatint.runtime.ort.options import OrtOptions
from aquatint.runtime.ort.source import Bytes, Source, finished
from aquatint.runtime.ort.weights import Stored, branch, bytes_of, folded


def gemm(write: Writer, call: Call, source: Source, options: OrtOptions, seen: tuple[Range, Range] | None) -> ir.Value:
    """activation(x Wᵀ + bias) gate + residual; over an image's pixels as a convolution, where calibration knows the ranges."""
    if source.is_image and seen is not None and options.weights != "fp32":
        y = fixed_convolution(write, call, source, Stored.of(call, source, source.smooth), options, seen)
        return finished(write, call, write("Transpose", y, perm=TO_CHANNELS_LAST))
    stored = Stored.of(call, source)
    few = source.rank <= 2  # one row a sample
    if options.weights == "fp32":
        y = _added(write, call, write("MatMul", source.smoothed_rows(write), _floats(write, stored)))
    elif stored.bits == 4 and (few or options.weights == "w4-nbits"):
        y = _added(write, call, _nibbles(write, source.smoothed_rows(write), stored))
    elif few and source.exact:
        y = _added(write, call, write("MatMul", source.smoothed_rows(write), _dequantized_bytes(write, stored)))
    else:
        y = product_of_bytes(write, call, source.as_bytes(write, options.scales), stored, options)
    return finished(write, call, y)


def product_of_bytes(write: Writer, call: Call, x: Bytes, stored: Stored, options: OrtOptions) -> ir.Value:
    """x (..., T K) in bytes by the weight in bytes, with the bias, in float32."""
    if options.weights == "w8a8" or stored.bits == 8:
        codes, scales = bytes_of(stored)
        weight = write.constant(codes, f"{stored.name}.bytes")
    else:
        weight, scales = folded(write, stored)
    y = write.cast(write("MatMulInteger", x.codes, weight, x.zero), ir.DataType.FLOAT)
    steps = write.constant(scales, f"{stored.name}.byte_scales")
    if x.rows is None:
        return _added(write, call, write("Mul", y, write("Mul", x.scale, steps)))
    fixed = write.constant((scales * np.float32(1 / 127)).astype(np.float32), f"{stored.name}.row_scales")
    return _added(write, call, write("Mul", write("Mul", y, fixed), x.rows))


def _nibbles(write: Writer, x: ir.Value, stored: Stored) -> ir.Value:
    """DequantizeLinear by blocks and MatMul, which onnxruntime makes one MatMulNBits of; the branch apart."""
    codes = stored.codes[:, 0].T.astype(ml_dtypes.int4)
    scales = stored.steps.numbers()[:, 0].T
    weight = write(
        "DequantizeLinear", write.constant(codes, f"{stored.name}.int4"),
        write.constant(scales, f"{stored.name}.int4_scales"), axis=0, block_size=stored.group,
    )  # fmt: skip
    y = write("MatMul", x, weight)
    if stored.up is None:
        return y
    down, up = (write.cast(value, ir.DataType.FLOAT) for value in branch(write, stored))
    return write("Add", y, write("MatMul", write("MatMul", x, down), up))


def _dequantized_bytes(write: Writer, stored: Stored) -> ir.Value:
    """A weight of bytes for rows that stay as they are: floats once it is loaded."""
    codes = write.cast(write.constant(stored.codes[:, 0].T, f"{stored.name}.int8"), ir.DataType.FLOAT)
    return write("Mul", codes, write.constant(stored.steps.numbers()[:, 0, 0], f"{stored.name}.int8_scales"))


def _floats(write: Writer, stored: Stored) -> ir.Value:
    return write.constant(stored.dense(), f"{stored.name}.weight")


def _added(write: Writer, call: Call, y: ir.Value) -> ir.Value:
    """With the bias."""
    bias = call.inputs["bias"]
    return y if bias is None else write("Add", y, bias)

"""A convolution with fixed scales, from calibration: what onnxruntime makes one QLinearConv of."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aquatint.runtime.ort.graph import Call, Writer
from aquatint.runtime.ort.options import OrtOptions
from aquatint.runtime.ort.source import Source
from aquatint.runtime.ort.weights import Stored, bytes_of, folded

Range = tuple[float, float]


def fixed_convolution(
    write: Writer, call: Call, source: Source, stored: Stored, options: OrtOptions, seen: tuple[Range, Range]
) -> ir.Value:
    """Quantize, dequantize, convolve, quantize, dequantize, with the ranges of input and result that were `seen`."""
    size, bias = kernel_size(call), call.array("bias")
    outputs, _, width = stored.codes.shape
    if options.weights == "w8a8" or stored.bits == 8:
        codes, scales = bytes_of(stored)
        kernel = write.constant(image_layout(codes, size), f"{stored.name}.bytes")
    else:
        flat, scales = folded(write, stored)
        kernel = write("Transpose", write("Reshape", flat, write.indices(*size, width, outputs)), perm=[3, 2, 0, 1])
    steps, zeros = write.constant(scales, f"{stored.name}.byte_scales"), np.zeros(outputs, np.int8)
    weight = write("DequantizeLinear", kernel, steps, write.constant(zeros, f"zero_points.{outputs}"), axis=0)
    x, x_scale = _through_bytes(write, source.value, seen[0])
    added = None
    if bias is not None:
        both = (scales * x_scale).astype(np.float32)
        codes = np.rint(bias / both).clip(-(2**31), 2**31 - 1).astype(np.int32)
        names = f"{stored.name}.bias_codes", f"{stored.name}.bias_scales"
        added = write("DequantizeLinear", write.constant(codes, names[0]), write.constant(both, names[1]), axis=0)
    return _through_bytes(write, write("Conv", x, weight, added, **geometry(call)), seen[1])[0]


def _through_bytes(write: Writer, x: ir.Value, seen: Range) -> tuple[ir.Value, np.float32]:
    """x as bytes and back, with a fixed scale and zero for the range (low, high); and the scale."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = np.float32(max(high - low, 1e-20) / 255)
    zero = write.number(int(np.rint(-low / scale)), np.uint8)
    step = write.constant(scale, f"{write.site}.scale_{len(write.nodes)}")
    return write("DequantizeLinear", write("QuantizeLinear", x, step, zero), step, zero), scale


def kernel_size(call: Call) -> tuple[int, int]:
    """Height and width of the kernel; 1 and 1 for a product over pixels."""
    codes = call.array("weight")
    assert codes is not None
    return (codes.shape[1], codes.shape[2]) if codes.ndim == 4 else (1, 1)


def image_layout(flat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A weight (T C, O) as (O, C, kh, kw)."""
    return np.ascontiguousarray(flat.reshape(*size, -1, flat.shape[1]).transpose(3, 2, 0, 1))


def geometry(call: Call) -> dict[str, Any]:
    """Conv's attributes; plain for a product over pixels."""
    padding = list(call.options.get("padding", [0, 0]))
    strides, dilations = (list(call.options.get(name, [1, 1])) for name in ("stride", "dilation"))
    return {"strides": strides, "pads": padding * 2, "dilations": dilations}

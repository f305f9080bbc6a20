"""A k x k convolution: QLinearConv where calibration knows the ranges, else bytes gathered by taps and one product."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from aquatint.runtime.ort.fixed import Range, fixed_convolution, geometry, image_layout, kernel_size
from aquatint.runtime.ort.graph import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, Call, Writer
from aquatint.runtime.ort.linear import product_of_bytes
from aquatint.runtime.ort.options import OrtOptions
from aquatint.runtime.ort.source import Bytes, Source, finished
from aquatint.runtime.ort.weights import Stored

TO_THE_END = 2**62


def conv2d(write: Writer, call: Call, source: Source, options: OrtOptions, seen: tuple[Range, Range] | None) -> ir.Value:
    """`seen` are the ranges of the input before smoothing and of the result before its epilogue, from calibration."""
    stored = Stored.of(call, source, source.smooth)
    if options.weights == "fp32":
        weight = write.constant(image_layout(stored.dense(), kernel_size(call)), f"{stored.name}.weight")
        y = write("Conv", source.value, weight, call.inputs["bias"], **geometry(call))
    elif seen is not None:
        y = fixed_convolution(write, call, source, stored, options, seen)
    else:
        y = _gathered(write, call, source, stored, options)
    return finished(write, call, y)


def _gathered(write: Writer, call: Call, source: Source, stored: Stored, options: OrtOptions) -> ir.Value:
    """Rows (B, H', W', T C) of bytes, every tap a slice of the padded image, times the weight: scales are found on the fly."""
    x = source.image_bytes(write)
    (top, left), strides, dilations = (list(call.options[k]) for k in ("padding", "stride", "dilation"))
    codes = x.codes
    if top or left:
        codes = write("Pad", codes, write.indices(top, left, top, left), x.zero, write.indices(2, 3))
    codes = write("Transpose", codes, perm=TO_CHANNELS_LAST)
    size = kernel_size(call)
    if size != (1, 1) or strides != [1, 1]:
        reach = [dilations[i] * (size[i] - 1) for i in (0, 1)]
        starts = [(i * dilations[0], j * dilations[1]) for i in range(size[0]) for j in range(size[1])]
        taps = [_tap(write, codes, start, reach, strides) for start in starts]
        codes = taps[0] if len(taps) == 1 else write("Concat", *taps, axis=3)
    y = product_of_bytes(write, call, Bytes(codes, x.zero, x.scale), stored, options)
    return write("Transpose", y, perm=TO_CHANNELS_FIRST)


def _tap(write: Writer, codes: ir.Value, start: tuple[int, int], reach: Sequence[int], strides: Sequence[int]) -> ir.Value:
    """What one tap of the kernel sees of every output pixel: it ends as far from the end as the taps behind it reach."""
    ends = [start[i] - reach[i] or TO_THE_END for i in (0, 1)]
    return write("Slice", codes, write.indices(*start), write.indices(*ends), write.indices(1, 2), write.indices(*strides))

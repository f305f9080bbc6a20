"""What stands before a product: norm, modulation, activation and smoothing, and the input as bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from aquatint.runtime.ort.graph import Call, Writer

ZERO = 128  # the byte of a zero, where the scale is symmetric
SMALLEST = 1e-20  # a row of zeros is divided by this


@dataclass(frozen=True)
class GroupNorm:
    """A group norm that a quantize applies: its input, and its own gain and offset (C,) or None."""

    x: ir.Value
    groups: int
    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float


@dataclass(frozen=True)
class Bytes:
    """x as uint8 codes: x = (codes - zero) * scale, times rows where each row was divided by its largest."""

    codes: ir.Value
    zero: ir.Value
    scale: ir.Value
    rows: ir.Value | None = None


@dataclass
class Source:
    """The input of a product in float32, its channels at `axis`, with `rank` dimensions; and what was made of it already.

    smooth  (K,) what its channels are still to be multiplied with, or None
    down    the branch's projection, as the quantize has it
    name    of the first site that reads it
    exact   few rows of it stay as they are: so do they in a program that quantizes no input
    """

    name: str
    value: ir.Value
    axis: int
    rank: int
    smooth: np.ndarray | None = None
    down: np.ndarray | None = None
    exact: bool = False
    rows: ir.Value | None = None
    made: dict[str, Bytes] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Does it have its channels before height and width?"""
        return self.rank == 4 and self.axis == 1

    def smoothed_rows(self, write: Writer) -> ir.Value:
        """Smoothed, with the channels last, as a linear reads it."""
        if self.rows is None:
            x = self.value if self.axis in (-1, self.rank - 1) else write("Transpose", self.value, perm=_to_last(self.rank))
            factor = None if self.smooth is None else write.constant(self.smooth, f"{write.site}.smooth_rows")
            self.rows = x if factor is None else write("Mul", x, factor)
        return self.rows

    def as_bytes(self, write: Writer, scales: str) -> Bytes:
        """Smoothed rows; quantized on the fly, once for all products that read them."""
        if scales not in self.made:
            x = self.smoothed_rows(write)
            self.made[scales] = _by_row(write, x) if scales == "row" else _by_tensor(write, x)
        return self.made[scales]

    def image_bytes(self, write: Writer) -> Bytes:
        """An image (B, C, H, W) as it is, not smoothed, quantized on the fly with one scale."""
        if "image" not in self.made:
            self.made["image"] = _by_tensor(write, self.value)
        return self.made["image"]


def _by_tensor(write: Writer, x: ir.Value) -> Bytes:
    codes, scale, zero = write.many("DynamicQuantizeLinear", x, outputs=3)
    return Bytes(codes, zero, scale)


def _by_row(write: Writer, x: ir.Value) -> Bytes:
    largest = write("ReduceMax", write("Abs", x), write.indices(-1), keepdims=1)
    rows = write("Max", largest, write.number(SMALLEST))
    scale, zero = write.number(1 / 127), write.number(ZERO, np.uint8)
    return Bytes(write("QuantizeLinear", write("Div", x, rows), scale, zero), zero, scale, rows)


def source_of(write: Writer, call: Call, norms: dict[ir.Value, GroupNorm]) -> Source:
    """The input of a `quantize`, before it is quantized. `norms` are the group norms by their gain."""
    x = call.inputs["x"]
    assert x is not None
    assert x.shape is not None
    axis, rank, eps = int(call.options.get("axis", -1)), len(x.shape), call.options.get("eps")
    gain, offset, smooth = call.inputs["gain"], call.inputs["offset"], call.array("smooth")
    activation = call.flag("activation")
    norm = norms.get(gain) if gain is not None else None
    affine = norm is not None or gain is not None or eps is not None
    if norm is None and affine and axis not in (-1, rank - 1):
        x, axis = write("Transpose", x, perm=_to_last(rank)), -1
    early = affine and not activation and not (rank == 4 and axis == 1)  # smoothing is part of the gain and the offset
    vector = smooth if early else None
    x = _affine(write, x, eps, gain, offset, vector) if norm is None else _group_norm(write, norm, vector)
    return Source(write.site, activated(write, x, activation), axis, rank, None if early else smooth, call.array("down"))


def _affine(
    write: Writer, x: ir.Value, eps: float | None, gain: ir.Value | None, offset: ir.Value | None, smooth: np.ndarray | None
) -> ir.Value:
    """(norm(x) gain + offset) smooth, the norm over the last axis where `eps` is given."""
    factor = None if smooth is None else write.constant(smooth, f"{write.site}.smooth_vector")
    if eps is not None:
        assert x.shape is not None
        width = int(x.shape[-1])  # type: ignore[arg-type]
        ones = write.constant(np.ones(width, np.float32), f"ones.{width}")
        x = write("LayerNormalization", x, ones if gain is not None or factor is None else factor, axis=-1, epsilon=eps)
    if gain is not None:
        x = write("Mul", x, gain if factor is None else write("Mul", gain, factor))
    if offset is not None:
        x = write("Add", x, offset if factor is None else write("Mul", offset, factor))
    return x


def _group_norm(write: Writer, norm: GroupNorm, smooth: np.ndarray | None) -> ir.Value:
    """A group norm over (B, C, ...): an instance norm of the groups; and a batch norm, which is gain and offset in one pass."""
    x, groups = norm.x, norm.groups
    assert x.shape is not None
    channels = int(x.shape[1])  # type: ignore[arg-type]
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    group_ones, group_zeros = write.constant(ones[:groups], f"ones.{groups}"), write.constant(zeros[:groups], f"zeros.{groups}")
    y = write("Reshape", x, write.indices(0, groups, -1))
    y = write("InstanceNormalization", y, group_ones, group_zeros, epsilon=norm.eps)
    y = write("Reshape", y, write("Shape", x))
    factor = ones if smooth is None else smooth.reshape(-1)
    gain = write.constant((ones if norm.weight is None else norm.weight) * factor, f"{write.site}.norm_gain")
    offset = write.constant((zeros if norm.bias is None else norm.bias) * factor, f"{write.site}.norm_offset")
    mean, variance = write.constant(zeros, f"zeros.{channels}"), write.constant(ones, f"ones.{channels}")
    return write("BatchNormalization", y, gain, offset, mean, variance, epsilon=0.0)


def activated(write: Writer, x: ir.Value, name: str) -> ir.Value:
    """The activation that our operators call `name`; nothing for no name."""
    if name == "silu":
        return write("Mul", x, write("Sigmoid", x))
    if name in ("gelu", "gelu_tanh"):
        return write("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")
    return x


def finished(write: Writer, call: Call, y: ir.Value) -> ir.Value:
    """Activation, gate and residual behind a product."""
    y = activated(write, y, call.flag("activation"))
    for kind, name in (("Mul", "gate"), ("Add", "residual")):
        other = call.inputs.get(name)
        y = y if other is None else write(kind, y, other)
    return y


def _to_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]

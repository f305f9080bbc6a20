"""What our operators mean, in plain torch: the oracle for every kernel, and what runs where there is none.

A function's signature is its operator's schema, and its result on fake tensors the shape rule. Products accumulate in float32.

Layouts: a linear's weight is (N, K); a convolution's is (O, kh, kw, I), so that groups of codes lie along the input
channels. A quantized activation has its channels last: (..., K) for a linear, (B, H, W, C) for a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named
from aquatint.runtime.ops.sparse import rowwise_conv2d

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}

NEAR = 5e-4  # of the largest stamp: as far from its stamp as a time may be


def quantize(
    x: Tensor, smooth: Tensor | None = None, down: Tensor | None = None, gain: Tensor | None = None,
    offset: Tensor | None = None, *, format: str, axis: int = -1, eps: float | None = None, activation: str | None = None,
    branch: str | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Encode `x * smooth` along `axis`, which moves last; with `down` (r, K) also project: (codes, scales[, h]).

    x (..., K), or (B, C, H, W) with axis 1; smooth (K,) multiplies; h (..., r) = (x * smooth) downᵀ in float32. With
    `branch`, a format, x * smooth may be rounded to it before it is projected: a kernel then reads the codes alone.
    Before that x becomes activation(norm(x) * gain + offset): a layer norm over K where `eps` is given, gain and offset
    in any shape that fits x with its channels last.
    SVDQuant (arXiv 2411.05007) section 4.2: one read of x serves the product and the low-rank branch.
    """
    values = smoothed(x, smooth, gain, offset, axis=axis, eps=eps, activation=activation)
    encoded = format_named(format).encode(values)
    if down is None:
        return tuple(encoded)
    read = values if branch is None else format_named(branch).roundtrip(values)
    return *encoded, F.linear(read, down.float())


def smoothed(
    x: Tensor, smooth: Tensor | None, gain: Tensor | None, offset: Tensor | None, *,
    axis: int = -1, eps: float | None = None, activation: str | None = None,
) -> Tensor:  # fmt: skip
    """What `quantize` encodes, as plain numbers."""
    x = x.movedim(axis, -1).float()
    x = x if eps is None else F.layer_norm(x, x.shape[-1:], eps=eps)
    x = x if gain is None else x * gain.float()
    x = x if offset is None else x + offset.float()
    x = ACTIVATIONS[activation](x) if activation else x
    return x if smooth is None else x * smooth.float()


def group_affine(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Group norm (arXiv 1803.08494) as a gain and an offset: group_norm(x) = x * gain + offset with the channels last.

    x (B, C, H, W) -> two tensors (B, 1, 1, C) in float32; or (B, C, L) -> (B, 1, C).
    """
    batch, channels = x.shape[:2]
    variance, mean = torch.var_mean(x.float().reshape(batch, groups, -1), -1, correction=0)
    gain, mean = (v.repeat_interleave(channels // groups, 1) for v in ((variance + eps).rsqrt(), mean))
    gain = gain if weight is None else gain * weight.float()
    offset = -mean * gain if bias is None else bias.float() - mean * gain
    shape = batch, *[1] * (x.dim() - 2), channels
    return gain.view(shape), offset.view(shape)


def dequantize(codes: Tensor, scales: Tensor, *, format: str, dtype: torch.dtype) -> Tensor:
    """The numbers behind codes (..., K), in `dtype`: a weight that is only stored small."""
    return format_named(format).decode(codes, scales).to(dtype)


def gemm(
    codes: Tensor, scales: Tensor | None, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, *,
    formats: tuple[str | None, str], dtype: torch.dtype, activation: str | None = None,
    gate: Tensor | None = None, residual: Tensor | None = None, active: int | None = None,
) -> Tensor:  # fmt: skip
    """activation(decode(codes) decode(weight)ᵀ + h upᵀ + bias) * gate + residual: codes (..., K), weight (N, K) -> (..., N).

    formats: of the activation codes, or None where `codes` are plain numbers without scales; of the weight codes.
    h (..., r) and up (N, r) are the low-rank branch. gate and residual in any shape that fits the result, which is in `dtype`.
    With `active`, 0 or 1, the columns are two halves: that one is activated and multiplies the other (arXiv 2002.05202).
    """
    x = codes.float() if formats[0] is None or scales is None else format_named(formats[0]).decode(codes, scales)
    plain = format_named(formats[1]).decode(weight, weight_scales)
    return multiplied(x, plain, bias, h, up, dtype=dtype, activation=activation, gate=gate, residual=residual, active=active)


def gemm_quantize(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, smooth: Tensor | None = None, down: Tensor | None = None, *,
    formats: tuple[str, str], dtype: torch.dtype, into: str, activation: str | None = None,
    gate: Tensor | None = None, residual: Tensor | None = None, branch: str | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`quantize` to the format `into` of what `gemm` gives: (codes, scales[, h]) of the next product. See `compiler.join`."""
    y = gemm(
        codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype, activation=activation, gate=gate,
        residual=residual,
    )  # fmt: skip
    return quantize(y, smooth, down, format=into, branch=branch)


def attention(query: Tensor, key: Tensor, value: Tensor, *, format: str, scale: float | None = None) -> Tensor:
    """softmax(scale query keyᵀ) value in a small float format, "bfloat16": (B, heads, T, D) each, in the dtype of the query.

    What is multiplied is rounded to it, and the result, as FlashAttention (arXiv 2205.14135) has it; sums are not. No scale:
    1 / sqrt(D).
    """
    q, k, v = (t.to(getattr(torch, format)) for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).to(query.dtype)


def rotary(
    x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None = None, *, dtype: torch.dtype | None = None,
    eps: float | None = None, halves: bool = False,
) -> Tensor:  # fmt: skip
    """Rotary positions (RoFormer, arXiv 2104.09864) of x (B, T, heads, D), in float32, the result in `dtype` or as x.

    Neighbours (a, b) of a row turn by an angle: x cos + (-b, a) sin, for cos and sin (1, T, 1, D), or (1, T, 1, D / 2) by
    pairs; with `halves` a and b are half a row apart. For x (B, heads, T, D) they are (1, 1, T, ..). With `eps` an RMS norm
    of each row comes first, times weight (D,).
    """
    dtype = dtype or x.dtype
    if 2 * cos.shape[-1] == x.shape[-1]:
        cos, sin = (torch.cat([v, v], -1) if halves else v.repeat_interleave(2, -1) for v in (cos, sin))
    x = x if eps is None else F.rms_norm(x, x.shape[-1:], weight, eps)
    first, second = x.chunk(2, -1) if halves else x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.cat([-second, first], -1) if halves else torch.stack([-second, first], -1).flatten(-2)
    return (x.float() * cos + turned.float() * sin).to(dtype)


def angles(cos: Tensor, sin: Tensor, *, width: int, halves: bool = False) -> Tensor:
    """What `rotary` turns rows of `width` by, as `gemm_rotary` reads it: cos, sin (1, T, 1, ..) -> (1, T, width / 2, 4).

    Of each pair the cosine and the sine of its first number, and of its second, in float32.
    """
    both = torch.stack([cos, sin], -1).float().squeeze(-3)
    if 2 * both.shape[-2] == width:
        return torch.cat([both, both], -1)
    pairs = both.unflatten(-2, (2, -1)).transpose(-3, -2) if halves else both.unflatten(-2, (-1, 2))
    return pairs.flatten(-2)


def gemm_rotary(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, angles: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, norm: Tensor | None = None, *,
    formats: tuple[str, str], dtype: torch.dtype, width: int, eps: float | None = None, halves: bool = False,
) -> Tensor:  # fmt: skip
    """`rotary` of what `gemm` gives, as heads (B, T, heads, width), with `norm` as its weight. See `compiler.turned`."""
    y = gemm(codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype)
    pairs = angles.unflatten(-1, (2, 2)).unsqueeze(-4)
    cos, sin = (pairs.transpose(-3, -2) if halves else pairs).flatten(-3, -2).unbind(-1)
    return rotary(y.unflatten(-1, (-1, width)), cos, sin, norm, eps=eps, halves=halves)


def is_plain_attention(
    query: Any, key: Any, value: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False, **options: Any
) -> bool:
    """Of the arguments of PyTorch's attention: is nothing masked, dropped or shared?"""
    return mask is None and options.get("attn_mask") is None and not (dropout or causal or options.get("enable_gqa"))


def multiplied(
    x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor | None, up: Tensor | None, *, dtype: torch.dtype,
    activation: str | None = None, gate: Tensor | None = None, residual: Tensor | None = None, active: int | None = None,
) -> Tensor:  # fmt: skip
    """`gemm` of plain numbers."""
    y = F.linear(x, weight)
    y = y if h is None or up is None else y + F.linear(h, up.float())
    y = y if bias is None else y + bias.float()
    if active is not None:
        halves = y.chunk(2, -1)
        y, activation = halves[1 - active] * _finished(halves[active], activation, None, None), None
    return _finished(y, activation, gate, residual).to(dtype)


def _finished(y: Tensor, activation: str | None, gate: Tensor | None, residual: Tensor | None) -> Tensor:
    y = ACTIVATIONS[activation](y) if activation else y
    y = y if gate is None else y * gate.float()
    return y if residual is None else y + residual.float()


def conv2d(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, *,
    formats: tuple[str, str], dtype: torch.dtype, stride: list[int], padding: list[int], dilation: list[int],
    activation: str | None = None, gate: Tensor | None = None, residual: Tensor | None = None, table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution of codes (B, H, W, C) with weight (O, kh, kw, C) -> (B, O, H', W') in `dtype`; the rest as in `gemm`.

    The low-rank branch is h (B, H, W, kh kw r), what each pixel gives through each tap, and up (O, r): an output pixel adds
    up r numbers from the pixels that its taps see. With a table only some outputs are computed: see `rowwise_conv2d`.
    """
    image, kernel = format_named(formats[0]).decode(codes, scales), format_named(formats[1]).decode(weight, weight_scales)
    return convolved(
        image, kernel, bias, h, up, dtype=dtype, stride=stride, padding=padding, dilation=dilation,
        activation=activation, gate=gate, residual=residual, table=table,
    )  # fmt: skip


def convolved(
    image: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor | None, up: Tensor | None, *, dtype: torch.dtype,
    stride: list[int], padding: list[int], dilation: list[int], activation: str | None = None, gate: Tensor | None = None,
    residual: Tensor | None = None, table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`conv2d` of plain numbers."""
    kernel = weight.movedim(-1, 1)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "table": table}
    y = rowwise_conv2d(image.movedim(-1, 1), kernel, None if bias is None else bias.float(), **geometry)
    if h is not None and up is not None:
        taps = torch.eye(kernel.shape[2] * kernel.shape[3], device=up.device)
        spread = torch.einsum("or,ts->otrs", up.float(), taps).reshape(len(up), -1, *kernel.shape[2:])
        y = y + rowwise_conv2d(h.movedim(-1, 1), spread, None, **geometry)
    return _finished(y, activation, gate, residual).to(dtype)


def of_step(stack: Tensor, time: Tensor, *, stamps: tuple[float, ...]) -> Tensor:
    """The entry of stack (S, ...) for the step of this time, all of `time` (B,) being near the same of S stamps; else NaN."""
    step, known = step_of(time, stamps)
    return torch.where(known, stack.index_select(0, step).squeeze(0), float("nan"))


def step_of(time: Tensor, stamps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(number of the stamp that the first of `time` (B,) is nearest to, as (1,); whether all of them are at it)."""
    own = torch.tensor(stamps, device=time.device).to(time.dtype).float()  # as they are rounded on their way
    apart = (time.flatten().float()[:, None] - own).abs()
    steps = apart.argmin(1)
    return steps[:1], (apart.amin(1) <= NEAR * max(stamps)).all() & (steps == steps[0]).all()

"""The operator table: every operator that a program may hold, and the meaning of ours in plain torch.

PyTorch's own ATen operators keep PyTorch's meaning and are listed by name. Ours are declared once, here: the function is
the meaning, its signature the schema, its result on fake tensors the shape rule. It is the oracle for every kernel, and
what runs where there is no kernel. Products accumulate in float32.

Layouts: a linear's weight is (N, K); a convolution's is (O, kh, kw, I), so that groups of codes lie along the input
channels. A quantized activation has its channels last: (..., K) for a linear, (B, H, W, C) for a convolution.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


# In an ONNX graph our operators stand in a domain of their own, and with them plain attention, which ATen has and ONNX has not.
DOMAIN, ATTENTION = "aquatint", "attention"


EPILOGUE = ("activation", "gate", "residual")  # what a product does with its result, in this order


NEAR = 5e-4  # of the largest stamp: as far from its stamp as a time may be


class Slot:
    """In the arguments of a call that is being lowered: a value that is known only at run time."""


def filled(values: Sequence[Any], varying: Sequence[Any]) -> list[Any]:
    """`values` with each Slot replaced by the next of what varies."""
    given = iter(varying)
    return [next(given) if value is Slot else value for value in values]


@dataclass(frozen=True)
class Operator:
    """One operator of ours: `name` as printed, and `meaning`, which `__call__` runs."""

    name: str
    meaning: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.meaning(*args, **kwargs)

    @property
    def __name__(self) -> str:
        return self.name.removeprefix("aquatint::")

    @property
    def schema(self) -> inspect.Signature:
        return inspect.signature(self.meaning)

    @property
    def tensors(self) -> list[str]:
        """The parameters that take a tensor, in order."""
        return [p.name for p in self.schema.parameters.values() if "Tensor" in str(p.annotation)]


def _quantize(
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


def _group_affine(
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


def _dequantize(codes: Tensor, scales: Tensor, *, format: str, dtype: torch.dtype) -> Tensor:
    """The numbers behind codes (..., K), in `dtype`: a weight that is only stored small."""
    return format_named(format).decode(codes, scales).to(dtype)


def _gemm(
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


def _gemm_quantize(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, smooth: Tensor | None = None, down: Tensor | None = None, *,
    formats: tuple[str, str], dtype: torch.dtype, into: str, activation: str | None = None,
    gate: Tensor | None = None, residual: Tensor | None = None, branch: str | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`quantize` to the format `into` of what `gemm` gives: (codes, scales[, h]) of the next product. See `compiler.join`."""
    y = _gemm(
        codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype, activation=activation, gate=gate,
        residual=residual,
    )  # fmt: skip
    return _quantize(y, smooth, down, format=into, branch=branch)


def _attention(query: Tensor, key: Tensor, value: Tensor, *, format: str, scale: float | None = None) -> Tensor:
    """softmax(scale query keyᵀ) value in a small float format, "bfloat16": (B, heads, T, D) each, in the dtype of the query.

    What is multiplied is rounded to it, and the result, as FlashAttention (arXiv 2205.14135) has it; sums are not. No scale:
    1 / sqrt(D).
    """
    q, k, v = (t.to(getattr(torch, format)) for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).to(query.dtype)


def _rotary(
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


def _angles(cos: Tensor, sin: Tensor, *, width: int, halves: bool = False) -> Tensor:
    """What `rotary` turns rows of `width` by, as `gemm_rotary` reads it: cos, sin (1, T, 1, ..) -> (1, T, width / 2, 4).

    Of each pair the cosine and the sine of its first number, and of its second, in float32.
    """
    both = torch.stack([cos, sin], -1).float().squeeze(-3)
    if 2 * both.shape[-2] == width:
        return torch.cat([both, both], -1)
    pairs = both.unflatten(-2, (2, -1)).transpose(-3, -2) if halves else both.unflatten(-2, (-1, 2))
    return pairs.flatten(-2)


def _gemm_rotary(
    codes: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, angles: Tensor, bias: Tensor | None = None,
    h: Tensor | None = None, up: Tensor | None = None, norm: Tensor | None = None, *,
    formats: tuple[str, str], dtype: torch.dtype, width: int, eps: float | None = None, halves: bool = False,
) -> Tensor:  # fmt: skip
    """`rotary` of what `gemm` gives, as heads (B, T, heads, width), with `norm` as its weight. See `compiler.turned`."""
    y = _gemm(codes, scales, weight, weight_scales, bias, h, up, formats=formats, dtype=dtype)
    pairs = angles.unflatten(-1, (2, 2)).unsqueeze(-4)
    cos, sin = (pairs.transpose(-3, -2) if halves else pairs).flatten(-3, -2).unbind(-1)
    return _rotary(y.unflatten(-1, (-1, width)), cos, sin, norm, eps=eps, halves=halves)


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


def _conv2d(
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
    y = _rowwise_conv2d(image.movedim(-1, 1), kernel, None if bias is None else bias.float(), **geometry)
    if h is not None and up is not None:
        taps = torch.eye(kernel.shape[2] * kernel.shape[3], device=up.device)
        spread = torch.einsum("or,ts->otrs", up.float(), taps).reshape(len(up), -1, *kernel.shape[2:])
        y = y + _rowwise_conv2d(h.movedim(-1, 1), spread, None, **geometry)
    return _finished(y, activation, gate, residual).to(dtype)


def _of_step(stack: Tensor, time: Tensor, *, stamps: tuple[float, ...]) -> Tensor:
    """The entry of stack (S, ...) for the step of this time, all of `time` (B,) being near the same of S stamps; else NaN."""
    step, known = step_of(time, stamps)
    return torch.where(known, stack.index_select(0, step).squeeze(0), float("nan"))


def step_of(time: Tensor, stamps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(number of the stamp that the first of `time` (B,) is nearest to, as (1,); whether all of them are at it)."""
    own = torch.tensor(stamps, device=time.device).to(time.dtype).float()  # as they are rounded on their way
    apart = (time.flatten().float()[:, None] - own).abs()
    steps = apart.argmin(1)
    return steps[:1], (apart.amin(1) <= NEAR * max(stamps)).all() & (steps == steps[0]).all()


# Sparse editing: some rows of a value, a value with some rows replaced, and products of which each output is the same number
# however many others are computed with it.


def _take(x: Tensor, index: Tensor, *, axis: int, axes: int = 1) -> Tensor:
    """The rows `index` (n,) of the positions that the `axes` axes from `axis` on span: (.., H, W, ..) -> (.., n, 1, ..)."""
    taken = x.flatten(axis, axis + axes - 1).index_select(axis, index)
    return taken.reshape(*taken.shape[: axis + 1], *[1] * (axes - 1), *taken.shape[axis + 1 :])


def _pick(x: Tensor, phase: Tensor, *, count: int) -> Tensor:
    """Of `count` neighbouring channels of rows x (B, C, n, 1) the one that `phase` (n,) names: -> (B, C / count, n, 1)."""
    choices = x.unflatten(1, (-1, count))
    return choices.gather(2, phase.view(1, 1, 1, -1, 1).expand(*choices.shape[:2], 1, -1, 1)).squeeze(2)


def _recall(
    codes: Tensor, scales: Tensor | None, index: Tensor, rows: Tensor | None = None, *, format: str | None = None
) -> Tensor:
    """The rows `index` (n,) of what was kept of a value (B, T, C), as plain numbers (B, n, C), behind `rows` (B, m, C)."""
    found = codes.index_select(1, index)
    if format is not None and scales is not None:
        found = format_named(format).decode(found, scales.index_select(1, index))
    return found if rows is None else torch.cat([rows.to(found.dtype), found], 1)


def _merge(codes: Tensor, scales: Tensor | None, rows: Tensor, index: Tensor, *, format: str | None = None) -> Tensor:
    """What was kept of a value (B, T, C), with `rows` (B, n, C) at the places `index` (n,)."""
    kept = codes if format is None or scales is None else format_named(format).decode(codes, scales)
    return kept.index_copy(1, index, rows.to(kept.dtype))


def _moved_affine(
    gain: Tensor, offset: Tensor, old: Tensor, new: Tensor, *, groups: int, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    """`group_affine` without weights, of a value in which the rows `old` (B, n, C) have become `new`.

    gain and offset (B, .., C) are what it was; count: places of the whole value. Where nothing has moved, nothing changes.
    """
    batch, shape = len(gain), gain.shape
    rstd, shift = (v.double().reshape(batch, groups, -1)[..., 0] for v in (gain, offset))
    mean = -shift / rstd
    square = 1 / rstd.square() - eps + mean.square()
    each = count * shape[-1] // groups

    before, now = old.double(), new.double()
    first, second = ((now**p - before**p).sum(1).reshape(batch, groups, -1).sum(-1) for p in (1, 2))
    new_mean = mean + first / each
    variance = (square + second / each - new_mean.square()).clamp(min=0)
    new_gain = (variance + eps).rsqrt()
    unmoved = (first == 0) & (second == 0)
    spread = [v.repeat_interleave(shape[-1] // groups, 1).reshape(shape) for v in (new_gain, -new_mean * new_gain, unmoved)]
    return torch.where(spread[2], gain, spread[0].to(gain.dtype)), torch.where(spread[2], offset, spread[1].to(gain.dtype))


def _rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As aten::linear; a row of the result depends on its own row of x alone, to the last bit."""
    return F.linear(x, weight, bias)


def _rowwise_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x (.., T, K) weightᵀ for weight (.., N, K) -> (.., T, N), a row the same to the last bit however many there are."""
    return x @ weight.transpose(-1, -2)


def can_go_by_squares(weight: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Can a convolution of this weight (O, C, kh, kw) be computed by squares of 2 x 2 outputs?"""
    return [*weight[2:], *stride, *dilation, groups] == [3, 3, 1, 1, 1, 1, 1] and weight[1] % 16 == 0


def _rowwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
    stride: list[int], padding: list[int], dilation: list[int], groups: int = 1, by_squares: bool = False,
    table: Tensor | None = None, squares: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As aten::conv2d, each output the same to the last bit however many are computed: x (B, C, H, W) -> (B, O, H', W').

    With a table (n, kh kw) of n outputs alone: which of the rows x (B, C, m, 1) each tap sees, -1 for none -> (B, O, n, 1).
    SIGE (arXiv 2211.02048) section 3.2, by rows instead of blocks.

    by_squares  a kernel may compute squares of 2 x 2 outputs, beginning at even places (`can_go_by_squares`)
    squares     (s, 20), with a table: the 16 rows that each square sees, and its 4 outputs; -1 for none
    """
    if table is None:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    rows = F.pad(x.flatten(2), (0, 1)).unflatten(1, (groups, -1))  # -1 reads the zeros at the end
    seen = rows[..., table.long()]
    kernel = weight.flatten(2).unflatten(0, (groups, -1))
    y = torch.einsum("bgcnt,goct->bgon", seen, kernel).flatten(1, 2)
    return (y if bias is None else y + bias.view(-1, 1)).unsqueeze(-1)


quantize = Operator("aquatint::quantize", _quantize)
group_affine = Operator("aquatint::group_affine", _group_affine)
dequantize = Operator("aquatint::dequantize", _dequantize)
gemm = Operator("aquatint::gemm", _gemm)
gemm_quantize = Operator("aquatint::gemm_quantize", _gemm_quantize)
conv2d = Operator("aquatint::conv2d", _conv2d)
attention = Operator("aquatint::attention", _attention)
rotary = Operator("aquatint::rotary", _rotary)
angles = Operator("aquatint::angles", _angles)
gemm_rotary = Operator("aquatint::gemm_rotary", _gemm_rotary)

of_step = Operator("aquatint::of_step", _of_step)

take = Operator("aquatint::take", _take)
pick = Operator("aquatint::pick", _pick)
recall = Operator("aquatint::recall", _recall)
merge = Operator("aquatint::merge", _merge)
moved_affine = Operator("aquatint::moved_affine", _moved_affine)
rowwise_linear = Operator("aquatint::rowwise_linear", _rowwise_linear)
rowwise_matmul = Operator("aquatint::rowwise_matmul", _rowwise_matmul)
rowwise_conv2d = Operator("aquatint::rowwise_conv2d", _rowwise_conv2d)

OURS: dict[str, Operator] = {
    op.name: op
    for op in (
        quantize, group_affine, dequantize, gemm, gemm_quantize, conv2d, attention, rotary, angles,
        gemm_rotary, of_step, take, pick, recall, merge, moved_affine, rowwise_linear, rowwise_matmul, rowwise_conv2d,
    )
}  # fmt: skip

PYTHON: dict[str, Callable[..., Any]] = {
    f"python::{f.__name__}": f
    for f in (
        operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
        operator.neg, operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
        min, max, torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_sqrt,
    )
}  # fmt: skip

# Functional operators of ATen, whole (not decomposed). None reads a file, keeps a state or draws a random number.
ATEN_NAMES = frozenset(
    """
    abs adaptive_avg_pool2d add addcmul addmm alias all amax amin any arange argmax argmin atan2 avg_pool2d baddbmm
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to cat cdist ceil celu chunk clamp clamp_max
    clamp_min clone complex concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d copy cos cosh cumsum detach diagonal div einsum elu embedding empty empty_like eq erf exp expand
    expand_as expm1 eye fill flatten flip floor floor_divide fmod full full_like gather ge gelu glu group_norm gt
    hardsigmoid hardswish hardtanh imag index index_put index_select instance_norm isfinite isinf isnan item layer_norm
    le leaky_relu lerp linalg_vector_norm linear linspace log log1p log2 log_softmax logical_and logical_not logical_or
    logsumexp lt masked_fill matmul max max_pool2d max_pool3d maximum mean meshgrid min minimum mish mm movedim mul
    nan_to_num narrow native_group_norm native_layer_norm ne neg new_empty new_full new_ones new_zeros norm numpy_T ones
    ones_like outer pad pad_sequence permute pixel_shuffle pixel_unshuffle polar pow prelu prod real reciprocal
    reflection_pad1d reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d replication_pad3d
    reshape rms_norm roll round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter select select_scatter
    sigmoid sign silu sin sinh slice slice_scatter _softmax softmax softplus sort split split_with_sizes sqrt square
    squeeze stack std sub sum sym_numel sym_size sym_stride t tan tanh tensor_split tile to _to_copy topk transpose tril
    triu true_divide trunc type_as unbind unflatten _unsafe_view unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_trilinear3d var view
    view_as view_as_complex view_as_real _weight_norm where zeros zeros_like
    """.split()
)


def name_of(target: Any) -> str | None:
    """The printed name of a node's target (`aten::linear.default`), or None for what the table does not hold."""
    if isinstance(target, Operator):
        return target.name
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        known = namespace == "aten" and name in ATEN_NAMES and not target._schema.is_mutable
        return f"aten::{name}.{target._overloadname}" if known else None
    name = f"python::{getattr(target, '__name__', '')}"
    return name if PYTHON.get(name) is target else None


def operator_named(name: str) -> Callable[..., Any]:
    """The operator printed as `name`; KeyError with the name when the table does not hold it."""
    if name in OURS:
        return OURS[name]
    if name in PYTHON:
        return PYTHON[name]
    packet, _, overload = name.removeprefix("aten::").partition(".")
    if not name.startswith("aten::") or packet not in ATEN_NAMES:
        raise KeyError(name)
    try:
        found = getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError:
        raise KeyError(name) from None
    if name_of(found) != name:
        raise KeyError(name)
    return found

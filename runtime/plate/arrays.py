"""What stands between compiled kernels, in numpy: operators of PyTorch on arrays. Few and small: of products there are those of
two values, and attention with a mask.

They raise ValueError for what they do not do, which is found when a plate is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Array:
    """To 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.copysign(1 - series * np.exp(-x * x), x)


def gelu(x: Array, *, approximate: str = "none") -> Array:
    if approximate == "none":
        return 0.5 * x * (1 + erf(x * np.float32(np.sqrt(0.5))))
    return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))


def add_into(result: Array, a: Any, b: Any, *, alpha: float = 1) -> None:
    np.add(a, b if alpha == 1 else alpha * b, out=result, casting="unsafe")


def sub_into(result: Array, a: Any, b: Any, *, alpha: float = 1) -> None:
    np.subtract(a, b if alpha == 1 else alpha * b, out=result, casting="unsafe")


def silu_into(result: Array, x: Array) -> None:
    np.negative(x, out=result)
    np.exp(result, out=result)
    np.add(result, 1, out=result)
    np.divide(x, result, out=result)


def cat_into(result: Array, parts: Sequence[Array], dim: int = 0) -> None:
    np.concatenate(parts, dim, out=result)


def affine_into(result: Array, x: Array, gain: Array, offset: Array) -> None:
    """x * gain + offset: what is left of a group norm when these are found."""
    np.multiply(x, gain, out=result)
    np.add(result, offset, out=result)


def embedding(weight: Array, index: Array, *padding: Any, **options: Any) -> Array:
    """Raises IndexError for a row that is not there."""
    if index.size and not 0 <= index.min() <= index.max() < len(weight):
        raise IndexError(f"there are {len(weight)} entries, from 0 on, and {index.min()} to {index.max()} are asked for")
    return weight[index]


def dequantize(codes: Array, scales: Array, *, format: str, dtype: Any = None) -> Array:
    """Raises ValueError for other formats than int8: what rows are looked up in."""
    if format != "int8":
        raise ValueError(f"numbers in {format}")
    grouped = codes.reshape(*codes.shape[:-1], scales.shape[-1], -1)
    return (grouped * scales[..., None]).reshape(codes.shape)


def softmax(x: Array, dim: int, dtype: Any = None) -> Array:
    shares = np.exp(x - x.max(dim, keepdims=True))
    return shares / shares.sum(dim, keepdims=True)


def mean(x: Array, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Array:
    return x.mean(None if dim is None else tuple(dim), keepdims=keepdim)


def normed(x: Array, axes: tuple[int, ...], eps: float, centre: bool = True) -> Array:
    """Of unit variance over `axes`, or of unit mean square."""
    x = x - x.mean(axes, keepdims=True) if centre else x
    return x / np.sqrt(np.square(x).mean(axes, keepdims=True) + np.float32(eps))


def layer_norm(
    x: Array, shape: Sequence[int], weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, *rest: Any
) -> Array:
    return affine(normed(x, tuple(range(-len(shape), 0)), eps), weight, bias)


def rms_norm(x: Array, shape: Sequence[int], weight: Array | None = None, eps: float | None = None) -> Array:
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    return affine(normed(x, tuple(range(-len(shape), 0)), eps, centre=False), weight, None)


def group_norm(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, *rest: Any
) -> Array:
    grouped = normed(x.reshape(len(x), groups, -1), (2,), eps).reshape(x.shape)
    vectors = (v if v is None else v.reshape(-1, *[1] * (x.ndim - 2)) for v in (weight, bias))
    return affine(grouped, *vectors)


def affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def group_affine(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float
) -> tuple[Array, Array]:
    """Gain and offset (B, 1, ..., C) with which a group norm is a multiplication and an addition."""
    grouped = x.reshape(len(x), groups, -1)
    mean, scale = grouped.mean(2), 1 / np.sqrt(grouped.var(2) + np.float32(eps))
    gain, mean = (np.repeat(v, x.shape[1] // groups, 1) for v in (scale, mean))
    gain = gain if weight is None else gain * weight
    offset = -mean * gain if bias is None else bias - mean * gain
    shape = len(x), *[1] * (x.ndim - 2), x.shape[1]
    return gain.reshape(shape), offset.reshape(shape)


def pad(x: Array, sides: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """Raises ValueError for sides that cut off."""
    pairs = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, widths, constant_values=value or 0)
    return np.pad(x, widths, {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])  # type: ignore[call-overload]


def pixel_shuffle(x: Array, factor: int) -> Array:
    *outer, channels, height, width = x.shape
    parts = x.reshape(*outer, channels // factor**2, factor, factor, height, width)
    last = len(outer) + 1
    return np.moveaxis(parts, (last, last + 1), (last + 1, last + 3)).reshape(*outer, -1, height * factor, width * factor)


def pixel_unshuffle(x: Array, factor: int) -> Array:
    *outer, channels, height, width = x.shape
    parts = x.reshape(*outer, channels, height // factor, factor, width // factor, factor)
    last = len(outer) + 1
    return np.moveaxis(parts, (last + 1, last + 3), (last, last + 1)).reshape(
        *outer, channels * factor**2, height // factor, width // factor
    )


def vector_norm(
    x: Array, order: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any
) -> Array:  # fmt: skip
    """Raises ValueError for another than the Euclidean."""
    if order != 2:
        raise ValueError(f"a norm of order {order}")
    return np.sqrt(np.square(x).sum(None if dim is None else tuple(dim), keepdims=keepdim))


def total(x: Array, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Array:
    return x.sum(tuple(dim) if dim else None, keepdims=keepdim)


def index(x: Array, places: Sequence[Array | None]) -> Array:
    return x[tuple(slice(None) if p is None else p for p in places)]


def upsample_nearest_into(result: Array, x: Array, size: Sequence[int] | None, scales: Sequence[float] | None) -> None:
    (height, width), (rows, columns) = x.shape[2:], result.shape[2:]
    if (rows, columns) == (2 * height, 2 * width) and (scales is None or list(scales) == [2, 2]):
        b, c, h, w = result.strides
        tiles = np.lib.stride_tricks.as_strided(result, (*x.shape[:2], height, 2, width, 2), (b, c, 2 * h, h, 2 * w, w))
        tiles[...] = x[:, :, :, None, :, None]
        return
    ratios = [1 / s for s in scales] if scales else [height / rows, width / columns]
    down, across = (
        np.minimum((np.arange(count, dtype=np.float32) * np.float32(ratio)).astype(int), length - 1)
        for count, ratio, length in zip((rows, columns), ratios, (height, width), strict=True)
    )
    np.copyto(result, x[:, :, down[:, None], across])


def attention(
    q: Array, k: Array, v: Array, mask: Array | None = None, dropout: float = 0.0, is_causal: bool = False, *,
    scale: float | None = None, **options: Any,
) -> Array:  # fmt: skip
    """Raises ValueError where heads are shared or the mask is causal."""
    if is_causal or options.get("enable_gqa"):
        raise ValueError("attention with a causal mask or shared heads")
    scores = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    most = scores.max(-1, keepdims=True)
    shares = np.exp(scores - np.where(np.isneginf(most), 0, most))
    total = shares.sum(-1, keepdims=True)
    return shares / np.where(total == 0, 1, total) @ v  # a query that sees nothing gets zeros, as from torch


def same(x: Array, *options: Any, **named: Any) -> Array:
    """In another dtype, order or shape, which the result has."""
    return x


def to_bfloat16(x: Array) -> Array:
    """The bits of float32 numbers, rounded to the nearest, and of two as near to the even one."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


INTO: dict[str, Callable[..., None]] = {  # those that write where their result belongs, which is their first argument
    "affine": affine_into,
    "aten::add.Tensor": add_into,
    "aten::sub.Tensor": sub_into,
    "aten::silu.default": silu_into,
    "aten::cat.default": cat_into,
    "aten::concat.default": cat_into,
    "aten::upsample_nearest2d.vec": upsample_nearest_into,
}
OPERATORS: dict[str, Callable[..., Any]] = {  # those that give it
    "copy": same,
    "copy to bfloat16": to_bfloat16,
    "copy from bfloat16": from_bfloat16,
    "aten::mul.Tensor": np.multiply,
    "aten::div.Tensor": np.true_divide,
    "aten::neg.default": np.negative,
    "aten::abs.default": np.abs,
    "aten::sqrt.default": np.sqrt,
    "aten::rsqrt.default": lambda x: 1 / np.sqrt(x),
    "aten::pow.Tensor_Scalar": np.power,
    "aten::exp.default": np.exp,
    "aten::log.default": np.log,
    "aten::sin.default": np.sin,
    "aten::cos.default": np.cos,
    "aten::tanh.default": np.tanh,
    "aten::relu.default": lambda x: np.maximum(x, 0),
    "aten::sigmoid.default": sigmoid,
    "aten::gelu.default": gelu,
    "aten::clamp.default": lambda x, least=None, most=None: np.clip(x, least, most),
    "aten::mean.dim": mean,
    "aten::softmax.int": softmax,
    "aten::matmul.default": np.matmul,
    "aten::bmm.default": np.matmul,
    "aten::scaled_dot_product_attention.default": attention,
    "aten::sum.dim_IntList": total,
    "aten::linalg_vector_norm.default": vector_norm,
    "aten::outer.default": np.multiply.outer,
    "aten::where.self": np.where,
    "aten::masked_fill.Scalar": lambda x, mask, value: np.where(mask, np.asarray(value, x.dtype), x),
    "aten::index.Tensor": index,
    "aten::zeros_like.default": lambda x, **options: np.zeros_like(x),
    "aten::ones_like.default": lambda x, **options: np.ones_like(x),
    "aten::repeat.default": lambda x, times: np.tile(x, times),
    "aten::repeat_interleave.self_int": lambda x, times, dim=None, **options: np.repeat(x, times, dim),
    "aten::pad.default": pad,
    "aten::pixel_shuffle.default": pixel_shuffle,
    "aten::pixel_unshuffle.default": pixel_unshuffle,
    "aten::stack.default": lambda parts, dim=0: np.stack(parts, dim),
    "aten::embedding.default": embedding,
    "aten::layer_norm.default": layer_norm,
    "aten::rms_norm.default": rms_norm,
    "aten::group_norm.default": group_norm,
    "aquatint::group_affine": group_affine,
    "aquatint::dequantize": dequantize,
    "aten::_to_copy.default": same,
    "aten::to.dtype": same,
    "aten::to.dtype_layout": same,
    "aten::to.device": same,
    "aten::clone.default": same,
    "aten::contiguous.default": same,
    "aten::expand.default": same,
    "aten::reshape.default": same,
    "aten::view.default": same,
    "aten::flatten.using_ints": same,
    "aten::unflatten.int": same,
}


def computing(name: str, results: Sequence[Array], args: Sequence[Any], options: Mapping[str, Any]) -> Callable[[], Any]:
    """What computes an operator into its results, as often as one likes. Raises KeyError for one that is not here."""
    if into := INTO.get(name):
        return lambda: into(*results, *args, **options)
    operator = OPERATORS[name]
    if isinstance(operator, np.ufunc) and operator.nin == len(args) and not options:
        return lambda: operator(*args, out=results[0], casting="unsafe")
    return lambda: _put(results, operator(*args, **options))


def _put(results: Sequence[Array], values: Any) -> None:
    for result, value in zip(results, values if isinstance(values, tuple) else (values,), strict=True):
        value = np.asarray(value)
        np.copyto(result, value.reshape(result.shape) if value.size == result.size else value, casting="unsafe")

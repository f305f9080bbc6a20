"""What the operators of sparse editing mean: some rows of a value, a value with some rows replaced, and products by rows.

Of a product by rows each output is the same number however many others are computed with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import format_named


def take(x: Tensor, index: Tensor, *, axis: int, axes: int = 1) -> Tensor:
    """The rows `index` (n,) of the positions that the `axes` axes from `axis` on span: (.., H, W, ..) -> (.., n, 1, ..)."""
    taken = x.flatten(axis, axis + axes - 1).index_select(axis, index)
    return taken.reshape(*taken.shape[: axis + 1], *[1] * (axes - 1), *taken.shape[axis + 1 :])


def pick(x: Tensor, phase: Tensor, *, count: int) -> Tensor:
    """Of `count` neighbouring channels of rows x (B, C, n, 1) the one that `phase` (n,) names: -> (B, C / count, n, 1)."""
    choices = x.unflatten(1, (-1, count))
    return choices.gather(2, phase.view(1, 1, 1, -1, 1).expand(*choices.shape[:2], 1, -1, 1)).squeeze(2)


def recall(
    codes: Tensor, scales: Tensor | None, index: Tensor, rows: Tensor | None = None, *, format: str | None = None
) -> Tensor:
    """The rows `index` (n,) of what was kept of a value (B, T, C), as plain numbers (B, n, C), behind `rows` (B, m, C)."""
    found = codes.index_select(1, index)
    if format is not None and scales is not None:
        found = format_named(format).decode(found, scales.index_select(1, index))
    return found if rows is None else torch.cat([rows.to(found.dtype), found], 1)


def merge(codes: Tensor, scales: Tensor | None, rows: Tensor, index: Tensor, *, format: str | None = None) -> Tensor:
    """What was kept of a value (B, T, C), with `rows` (B, n, C) at the places `index` (n,)."""
    kept = codes if format is None or scales is None else format_named(format).decode(codes, scales)
    return kept.index_copy(1, index, rows.to(kept.dtype))


def moved_affine(
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


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As aten::linear; a row of the result depends on its own row of x alone, to the last bit."""
    return F.linear(x, weight, bias)


def rowwise_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x (.., T, K) weightᵀ for weight (.., N, K) -> (.., T, N), a row the same to the last bit however many there are."""
    return x @ weight.transpose(-1, -2)


def can_go_by_squares(weight: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Can a convolution of this weight (O, C, kh, kw) be computed by squares of 2 x 2 outputs?"""
    return [*weight[2:], *stride, *dilation, groups] == [3, 3, 1, 1, 1, 1, 1] and weight[1] % 16 == 0


def rowwise_conv2d(
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

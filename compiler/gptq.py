"""GPTQ: round a weight column by column, and let the columns to come make up for each rounding.

Frantar et al., arXiv 2210.17323. Columns go in the order of their Hessian diagonal, largest first; scales are fixed
before the first column is rounded and follow the original columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aquatint.compiler.formats import Encoded, NumberFormat
from aquatint.compiler.numerics import single_thread

BLOCK = 128


def shrunk(gram: Tensor, count: int) -> Tensor:
    """`gram` of `count` rows drawn towards its diagonal where these are fewer than 2 K: what few rows say of how inputs
    go together is chance, and GPTQ would learn it. (Linear shrinkage: Ledoit & Wolf 2004; the weight here is a plain rule.)
    """
    chance = max(0.0, 1 - count / (2 * len(gram)))
    if chance == 0:
        return gram
    diagonal = gram.diagonal().clone()
    gram = gram * (1 - chance)
    gram.diagonal().copy_(diagonal)
    return gram


def gptq(weight: Tensor, gram: Tensor, number: NumberFormat, damping: float = 0.01) -> Encoded:
    """`weight` (N, taps, width) in `number`, for inputs whose mean xᵀx is `gram` (K, K), K = taps * width."""
    stored = number.encode(weight).scales
    width = weight.shape[-1]
    scales = number.read_scales(stored).repeat_interleave(number.group or width, -1).flatten(1)
    columns = weight.flatten(1)
    order = gram.diagonal().argsort(descending=True, stable=True)
    rounded = _rounded(columns[:, order], scales[:, order], _inverse_factor(gram, order, damping), number)
    restored = torch.empty_like(columns)
    restored[:, order] = rounded
    return number.encode_with(restored.view_as(weight), stored)


def _inverse_factor(gram: Tensor, order: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse Hessian, its rows and columns in `order`, with more damping where it is not
    yet positive definite."""
    mean = gram.diagonal().double().mean().clamp(min=1e-12)
    with single_thread():
        for attempt in range(8):
            factor = _try_inverse_factor(gram, order, mean * damping * 4**attempt)
            if factor is not None:
                return factor
    raise ArithmeticError("the inputs' Gram matrix has no Cholesky factor even when damped; are there NaN in the inputs?")


def _try_inverse_factor(gram: Tensor, order: Tensor, added: Tensor) -> Tensor | None:
    """None where a factorization fails. One K x K matrix of float64, worked on in place: it is the peak of a compression."""
    work = torch.empty(gram.shape, dtype=torch.float64).T  # column by column, as LAPACK wants it
    for rows in torch.arange(len(order)).split(BLOCK):
        work[rows] = gram[order[rows]][:, order].double()
    work.diagonal().add_(added)
    failed = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(work, out=(work, failed))
    if failed:
        return None
    torch.cholesky_inverse(work, out=work)
    torch.linalg.cholesky_ex(work, upper=True, out=(work, failed))
    work = work.float()  # before it is turned: three matrices at once would be the peak
    return None if failed else work.contiguous()


def _rounded(weight: Tensor, scales: Tensor, factor: Tensor, number: NumberFormat) -> Tensor:
    work = weight.clone()
    for first in range(0, work.shape[1], BLOCK):
        last = min(first + BLOCK, work.shape[1])
        errors = torch.empty_like(work[:, first:last])
        for column in range(first, last):
            scale = scales[:, column]
            exact = work[:, column].clone()
            work[:, column] = number.nearest(exact / scale) * scale
            error = (exact - work[:, column]) / factor[column, column]
            errors[:, column - first] = error
            work[:, column + 1 : last] -= error.unsqueeze(1) * factor[column, column + 1 : last]
        work[:, last:] -= errors @ factor[first:last, last:]
    return work

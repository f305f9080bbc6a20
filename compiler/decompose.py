"""The rank-r split of a weight by subspace iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.numerics import single_thread

EXTRA = 8  # directions carried beyond the rank, so that the last kept one converges (Halko et al. 2011, section 4.2)


@dataclass(frozen=True)
class LowRank:
    """up (N, r) and down (r, K), whose product is the branch; basis (K, r + EXTRA) starts the next search warm."""

    up: Tensor
    down: Tensor
    basis: Tensor


def low_rank(weight: Tensor, rank: int, start: Tensor | None = None, gram: Tensor | None = None, steps: int = 2) -> LowRank:
    """The leading rank-r part of `weight` (N, K), by block subspace iteration on WᵀW (Golub & Van Loan, 8.2.4).

    start  a basis (K, r + EXTRA) to begin with; without it, a fixed random one and six more steps
    gram   WᵀW (K, K) where it is known: an iteration then costs K² and not N K
    """
    if start is None:
        width = min(rank + EXTRA, *weight.shape)
        start = torch.randn(weight.shape[1], width, generator=torch.Generator().manual_seed(0))
        steps += 6
    apply: Callable[[Tensor], Tensor] = (lambda v: gram @ v) if gram is not None else (lambda v: weight.T @ (weight @ v))
    basis = start
    for _ in range(steps):
        basis = _orthonormal(apply(basis))
    image = weight @ basis
    with single_thread():  # Rayleigh-Ritz: turn the basis so that its first columns carry most
        _, turn = torch.linalg.eigh((image.T @ image).double())
    basis = basis @ turn.flip(1).to(basis.dtype)
    down = basis[:, :rank].T.contiguous()
    return LowRank(weight @ down.T, down, basis)


def _orthonormal(columns: Tensor) -> Tensor:
    with single_thread():
        return torch.linalg.qr(columns)[0]

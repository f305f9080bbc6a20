"""Two operators in one compiled kernel: a product, and the quantize that alone reads what it gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aquatint.runtime import ops
from aquatint.runtime.cpu.binding import Run
from aquatint.runtime.cpu.kernels import BoundKernel, GemmKernel, QuantizeKernel
from aquatint.runtime.cpu.native import KernelSet
from aquatint.runtime.layout import can_spread


class GemmQuantizeKernel(BoundKernel):
    """aquatint::gemm_quantize; called with codes, scales and what else varies: h, gate, residual."""

    def __init__(
        self, kernels: KernelSet, codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Tensor | None = None,
        h: Any = None, up: Tensor | None = None, smooth: Tensor | None = None, down: Tensor | None = None, *, into: str,
        branch: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.gemm = GemmKernel(kernels, codes, scales, weight, weight_scales, bias, h, up, **options)
        self.quantize = QuantizeKernel(kernels, ops.Slot, smooth, down, format=into, branch=branch)

    def fits(self, *values: Tensor) -> bool:
        return True

    def results(self, codes: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return self.quantize.results(self._between(codes))

    def bind(self, results: tuple[Tensor, ...], codes: Tensor, scales: Tensor, *varying: Tensor) -> Run:
        y, others = self._between(codes), ops.filled(self.gemm.product.epilogue, varying[self.gemm.branch :])
        if all(can_spread(v, y.shape) for v in others):
            return self.gemm.bind(y, codes, scales, *varying, next=self.quantize.into(*results))
        y = self.gemm.results(codes)
        multiply, encode = self.gemm.bind(y, codes, scales, *varying), self.quantize.bind(results, y)
        return lambda: (multiply(), encode())

    def _between(self, codes: Tensor) -> Tensor:
        """What the product gives, without memory."""
        return torch.empty(*codes.shape[:-1], self.gemm.product.n, device="meta")

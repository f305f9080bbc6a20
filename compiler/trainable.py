"""A program as a module that can be trained: all of its weights, or the low-rank branches of a quantized one alone.

Gradients pass straight through the quantizers of activations (Bengio et al. 2013, arXiv 1308.3432); 4-bit weights stay as they
are packed, so what is trained is what ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aquatint.compiler.errors import DistillError
from aquatint.compiler.execution import Execution
from aquatint.compiler.formats import format_named
from aquatint.compiler.program import Program
from aquatint.compiler.weights import Weights
from aquatint.runtime import ops


class Trainable(nn.Module):
    """Called with the program's inputs as keywords by path; what of its weights can be trained are parameters.

    train  "all": every weight in floating point; "branch": the up- and down-projections of a quantized program
    """

    def __init__(self, program: Program, train: str = "all") -> None:
        super().__init__()
        self.program = program
        self.names = [name for name in program.weights if _is_trained(program, name, train)]
        if not self.names:
            raise DistillError(f"{program.name} has no weight to train with train={train!r}: is it quantized with a branch?")
        self.trained = nn.ParameterList(nn.Parameter(program.weights[name].float().clone()) for name in self.names)
        weights = Weights(program.weights)
        for name, parameter in zip(self.names, self.trained, strict=True):
            weights[name] = parameter
        self._execution = Execution(program.graph, weights, straight_through)

    def forward(self, **inputs: Tensor) -> Tensor:
        """The first of the program's results."""
        flat, _ = self.program.interface.flatten((), inputs)
        return self._execution(*flat)[0]

    def state(self) -> dict[str, Tensor]:
        """The trained weights by the names that the program has for them."""
        return {name: p.detach() for name, p in zip(self.names, self.trained, strict=True)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Weights as `state` gave them."""
        with torch.no_grad():
            for name, parameter in zip(self.names, self.trained, strict=True):
                parameter.copy_(state[name])

    def program_with(self, state: Mapping[str, Tensor]) -> Program:
        """The program with trained weights, each in the dtype that it had."""
        changed = self.program.copy()
        for name, value in state.items():
            changed.weights[name] = value.to(self.program.weights[name].dtype).clone()
        return changed


def _is_trained(program: Program, name: str, train: str) -> bool:
    if train == "branch":
        return name.endswith((".up", ".down"))
    return program.weights[name].is_floating_point()


class _StraightQuantize:
    """aquatint::quantize whose codes are the numbers that they stand for, with the gradient of what was quantized."""

    def __init__(
        self, x: Any, smooth: Any = None, down: Any = None, gain: Any = None, offset: Any = None, *,
        format: str, axis: int = -1, eps: float | None = None, activation: str | None = None,
    ) -> None:  # fmt: skip
        self.given, self.format = (x, smooth, down, gain, offset), format_named(format)
        self.options = {"axis": axis, "eps": eps, "activation": activation}

    def fits(self, *values: Any) -> bool:
        return True

    def __call__(self, *values: Tensor) -> tuple[Tensor | None, ...]:
        x, smooth, down, gain, offset = ops.filled(self.given, values)
        exact = ops.smoothed(x, smooth, gain, offset, **self.options)
        rounded = exact + (self.format.roundtrip(exact.detach()) - exact.detach())
        return (rounded, None) if down is None else (rounded, None, F.linear(exact, down.float()))


class _StraightProduct:
    """aquatint::gemm or conv2d of numbers that stand for codes; its weight is read from its codes once."""

    def __init__(
        self, meaning: Callable[..., Tensor], codes: Any, scales: Any, weight: Tensor, weight_scales: Tensor, bias: Any = None,
        h: Any = None, up: Any = None, *, formats: tuple[str | None, str], gate: Any = None, residual: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.meaning, self.options = meaning, options
        self.weight = format_named(formats[1]).decode(weight, weight_scales)
        self.given = (codes, scales, bias, h, up, gate, residual)

    def fits(self, *values: Any) -> bool:
        return True

    def __call__(self, *values: Any) -> Tensor:
        x, _, bias, h, up, gate, residual = ops.filled(self.given, values)
        return self.meaning(x, self.weight, bias, h, up, gate=gate, residual=residual, **self.options)


def straight_through(operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The kernels that gradients pass through."""
    if operator == "aquatint::quantize":
        return _StraightQuantize(*args, **kwargs)
    meaning = {"aquatint::gemm": ops.multiplied, "aquatint::conv2d": ops.convolved}.get(operator)
    return _StraightProduct(meaning, *args, **kwargs) if meaning else None

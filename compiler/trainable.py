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
from aquatint.compiler.formats import NumberFormat, format_named
from aquatint.compiler.program import BRANCH, Program, narrowest
from aquatint.compiler.weights import Derived, Weights
from aquatint.runtime import ops
from aquatint.runtime.ops import meanings

LORA = 32  # the rank of adapters
UP, DOWN = ".lora_up", ".lora_down"


class Trainable(nn.Module):
    """Runs as a `CompressedModule` does; what of the program's weights can be trained are parameters.

    train  "all": every weight in floating point; "lora": an adapter of rank LORA beside the weight of every site, which is
           added to it in the end (arXiv 2106.09685); "branch": the up- and down-projections of a quantized program
    device where it is trained, with a copy of all its weights if that is not the processor; the program itself stays there
    """

    def __init__(self, program: Program, train: str = "all", device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.program, self.device = program, torch.device(device)
        first = _adapters(program) if train == "lora" else _own(program, train)
        if not first:
            raise DistillError(f"{program.name} has no weight to train with train={train!r}: is it quantized with a branch?")
        self.names = list(first)
        self.trained = nn.ParameterList(nn.Parameter(t.to(self.device)) for t in first.values())
        elsewhere = self.device.type != "cpu"
        weights = Weights({n: w.to(self.device) for n, w in program.weights.items()} if elsewhere else program.weights)
        self._put(weights, dict(zip(self.names, self.trained, strict=True)))
        self._execution = Execution(program.graph, weights, straight_through, self.device if elsewhere else None)

    def _put(self, weights: Weights, state: Mapping[str, Tensor]) -> None:
        """What is trained among all weights: in their place, or beside them."""
        for name, tensor in state.items():
            if name.endswith(UP):
                weight = name.removesuffix(UP)
                weights[weight] = Derived(weights[weight], None, tensor, state[weight + DOWN])
            elif not name.endswith(DOWN):
                weights[name] = tensor

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Tensors in, tensors out, in the order of the program's interface."""
        return self._execution(*inputs)

    def state(self) -> dict[str, Tensor]:
        """The trained weights by the names that the program has for them."""
        return {name: p.detach() for name, p in zip(self.names, self.trained, strict=True)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Weights as `state` gave them."""
        with torch.no_grad():
            for name, parameter in zip(self.names, self.trained, strict=True):
                parameter.copy_(state[name])

    def program_with(self, state: Mapping[str, Tensor]) -> Program:
        """The program with trained weights, each rounded to as many bits as it was stored in."""
        changed = self.program.copy()
        self._put(changed.weights, {name: tensor.cpu() for name, tensor in state.items()})
        for name, before in self.program.weights.items():
            if changed.weights.stored(name) is not self.program.weights.stored(name):
                changed.weights[name] = changed.weights[name].to(narrowest(before).dtype).to(before.dtype).clone()
        return changed


def _own(program: Program, train: str) -> dict[str, Tensor]:
    """The program's own weights that are trained, as numbers to begin with."""
    ends = {"branch": BRANCH, "all": ("",)}.get(train)
    if ends is None:
        raise DistillError(f"train={train!r} is not known; known: all, lora, branch")
    chosen = [n for n, w in program.weights.items() if n.endswith(ends) and w.is_floating_point()]
    return {name: program.weights[name].float().clone() for name in chosen}


def _adapters(program: Program) -> dict[str, Tensor]:
    """Two factors for the weight of every site, whose product begins at zero."""
    random, found = torch.Generator().manual_seed(0), {}
    for name in dict.fromkeys(site.weight for site in program.sites):
        weight = program.weights[name]
        if not weight.is_floating_point():
            continue
        outputs, inputs = len(weight), weight[0].numel()
        rank = min(LORA, outputs, inputs)
        found[name + UP] = torch.zeros(outputs, rank)
        found[name + DOWN] = torch.randn(rank, inputs, generator=random) / inputs**0.5
    return found


class _StraightQuantize:
    """aquatint::quantize whose codes are the numbers that they stand for, with the gradient of what was quantized."""

    def __init__(
        self, x: Any, smooth: Any = None, down: Any = None, gain: Any = None, offset: Any = None, *,
        format: str, axis: int = -1, eps: float | None = None, activation: str | None = None, branch: str | None = None,
    ) -> None:  # fmt: skip
        self.given, self.format = (x, smooth, down, gain, offset), format_named(format)
        self.branch = None if branch is None else format_named(branch)
        self.options = {"axis": axis, "eps": eps, "activation": activation}

    def fits(self, *values: Any) -> bool:
        return True

    def __call__(self, *values: Tensor) -> tuple[Tensor | None, ...]:
        x, smooth, down, gain, offset = ops.filled(self.given, values)
        exact = meanings.smoothed(x, smooth, gain, offset, **self.options)
        rounded = _straight(self.format, exact)
        if down is None:
            return rounded, None
        return rounded, None, F.linear(exact if self.branch is None else _straight(self.branch, exact), down.float())


def _straight(format: NumberFormat, values: Tensor) -> Tensor:
    """`values` rounded, with the gradient of what they were."""
    return values + (format.roundtrip(values.detach()) - values.detach())


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
    meaning = {"aquatint::gemm": meanings.multiplied, "aquatint::conv2d": meanings.convolved}.get(operator)
    return _StraightProduct(meaning, *args, **kwargs) if meaning else None

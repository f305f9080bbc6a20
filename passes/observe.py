"""Note the ranges of what goes into and comes out of each convolution, for targets whose scales are fixed beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from aquatint.compiler.edit import ITEM, is_call, source_of
from aquatint.compiler.execution import Execution, Values
from aquatint.compiler.formats import format_named
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.runtime.ops import name_of, operator_named

SAMPLE = 1 << 14  # numbers of a tensor, from each call, that its range is judged by
SHRINKS = torch.linspace(0.4, 1.0, 25)
LEVELS = 255


@dataclass(frozen=True)
class Observe:
    """The graph stays as it is; `program.ranges` gets, by site, (low, high) of the input, not smoothed, and of the bare result.

    1. Runs up to `calls` of the calibration calls, from the first to the last.
    2. The range is the part of (least, greatest) that gives the smallest squared error at 255 levels: an outlier that is cut
       costs less than the steps that it would widen (as LSQ and OCTAV start from).
    """

    calls: int = 4
    name: ClassVar[str] = "observe"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Report:
        execution = Execution(program.graph, program.weights)
        watched = {n: str(n.args[2].target).removesuffix(".codes") for n in execution.nodes if _reads_image(n)}  # type: ignore[union-attr]
        seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {site: ([], []) for site in watched.values()}
        chosen = _spread(context.calibration.calls, self.calls) if watched else ()
        for done, call in enumerate(chosen):
            context.progress("observe", done, len(chosen))
            values: Values = dict(zip(execution.inputs, call, strict=True))
            with torch.no_grad():
                for node in execution.advance(values):
                    if node in watched:
                        for kept, found in zip(seen[watched[node]], _around(node, execution, values), strict=True):
                            kept.append(_sampled(found, context.calibration.seed))
        program.ranges = {site: (best_range(torch.cat(i)), best_range(torch.cat(o))) for site, (i, o) in seen.items()}
        return Report(self.name, {"": {"observed": len(seen)}})


def _reads_image(node: fx.Node) -> bool:
    """A convolution, or a product over the pixels of an image."""
    if not is_call(node, "aquatint::gemm") or not is_call(node.args[0], ITEM):
        return is_call(node, "aquatint::conv2d")
    return bool(source_of(source_of(node)).kwargs.get("axis") == 1)


def best_range(values: Tensor) -> tuple[float, float]:
    """(low, high) around 0 whose 255 levels are nearest to `values` (n,), by squared error."""
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    ranges = [(low * s, high * s) for s in SHRINKS]
    errors = [_error(values, *ends) for ends in ranges]
    low, high = ranges[int(torch.stack(errors).argmin())]
    return _rounded(low), _rounded(high)


def _rounded(value: Tensor) -> float:
    """To three digits: the last ones of a sum may depend on the number of threads."""
    return float(f"{value.item():.3g}")


def _error(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    step = ((high - low) / LEVELS).clamp(min=1e-30)
    zero = (-low / step).round()
    return (((values / step + zero).round().clamp(0, LEVELS) - zero) * step - values).square().mean()


def _around(node: fx.Node, execution: Execution, values: Values) -> tuple[Tensor, Tensor]:
    """The input of a product before smoothing, as far as its codes tell it, and the result before its epilogue."""
    known: Any = fx.map_arg((node.args, node.kwargs), lambda n: execution.value(n, values))
    args, kwargs = known
    bare = {k: v for k, v in kwargs.items() if k not in ("activation", "gate", "residual")}
    smoothed = format_named(kwargs["formats"][0]).decode(args[0], args[1])
    quantize = source_of(source_of(node))
    smooth = quantize.args[1] if len(quantize.args) > 1 else None
    plain = smoothed / execution.value(smooth, values) if isinstance(smooth, fx.Node) else smoothed
    return plain, operator_named(name_of(node.target) or "")(*args, **bare)


def _sampled(values: Tensor, seed: int) -> Tensor:
    """Some of the numbers, and the least and the greatest."""
    flat = values.float().flatten()
    places = torch.randint(len(flat), (SAMPLE,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([flat[places], flat.aminmax().min[None], flat.aminmax().max[None]])


def _spread(calls: tuple[tuple[Tensor, ...], ...], count: int) -> list[tuple[Tensor, ...]]:
    places = torch.linspace(0, len(calls) - 1, min(count, len(calls))).round().long()
    return [calls[i] for i in places.tolist()]

"""Let attention multiply in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from aquatint.compiler.edit import is_call
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.compiler.verify import dtypes
from aquatint.runtime.ops import operator_named
from aquatint.runtime.ops.meanings import is_plain_attention

FORMATS = ("bfloat16",)
WIDE = "aten::scaled_dot_product_attention.default"


@dataclass(frozen=True)
class Attention:
    """Queries, keys, values and shares in bfloat16, sums in float32, as FlashAttention (arXiv 2205.14135) has them.

    Before:  %y = aten::scaled_dot_product_attention.default(%q, %k, %v)
    After:   %y = aquatint::attention(%q, %k, %v, format='bfloat16')

    Leaves alone: attention with a mask, and what is not in float32.
    """

    format: str = "bfloat16"
    name: ClassVar[str] = "attention"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError(f"no attention in {self.format!r}; known: {', '.join(FORMATS)}")

    def run(self, program: Program, context: Context) -> Report:
        plain = [n for n in program.graph.nodes if is_call(n, WIDE) and is_plain_attention(*n.args, **n.kwargs)]
        known = dtypes(program, list(context.calibration.calls[0])) if plain else {}
        wide = [n for n in plain if known.get(n.name) == torch.float32]
        for node in wide:
            scale = {"scale": node.kwargs["scale"]} if node.kwargs.get("scale") is not None else {}
            node.target, node.args = operator_named("aquatint::attention"), node.args[:3]
            node.kwargs = {"format": self.format, **scale}
        return Report(self.name, {"": {"attention": len(wide)}})

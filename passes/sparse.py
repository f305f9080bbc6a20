"""Make ready for edits: entries that record a run, and that compute only what an edit changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from aquatint.compiler.by_step import steps_of
from aquatint.compiler.errors import PassError, RecipeError
from aquatint.compiler.formats import FORMATS
from aquatint.compiler.incremental import incremental
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program
from aquatint.compiler.rowwise import prepared
from aquatint.compiler.spatial import spatial


@dataclass(frozen=True)
class Sparse:
    """Compute at the places that an edit touches; take all else from a recorded run (SIGE, arXiv 2211.02048).

    Before:  %n = aten::group_norm.default(%x, 32, @w, @b, 1e-05);  %s = aten::silu.default(%n)
             %y = aten::conv2d.default(%s, @conv.weight, @conv.bias, [1, 1], [1, 1])
    After:   the program is as it was; its entry `edit` has
             %l = aquatint::recall(%x_kept, %x_scales, %halo, %x_rows, format='int8')   # and around it, from the recorded run
             %m = aten::mul.Tensor(%l, %gain_kept);  %a = aten::add.Tensor(%m, %offset_kept);  %s = aten::silu.default(%a)
             %y = aquatint::rowwise_conv2d(%s, @conv.weight, @conv.bias, table=%table, ...)

    1. Where the places of the image lie in each value is found from the first input on (compiler/spatial.py).
    2. Group norms keep the gain and offset of the recorded run; with `norms` these follow what an edit changes.
    3. Attention asks at the edited places, and sees all keys and values.
    4. What the image does not reach (time, text, their keys and values) is kept.
    `cache` is the format that values are kept in: "int8", "int4-g64", or "float32"; those that are `dropped` are not kept, and
    their places around an edit are computed again. With `reaching` all is computed that an edit can reach through
    convolutions; else the mask at every resolution.
    """

    cache: str = "int8"
    dropped: tuple[str, ...] = ()
    norms: bool = True
    reaching: bool = False
    name: ClassVar[str] = "sparse"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.cache != "float32" and self.cache not in FORMATS:
            raise RecipeError(f"no cache format {self.cache!r}; known: float32, {', '.join(FORMATS)}")

    def run(self, program: Program, context: Context) -> Report:
        if steps_of(program.graph):
            raise PassError(f"{program.name} has branches by step, and an edit is of no step: distil it without by_step")
        inputs = list(context.calibration.calls[0])
        graph = prepared(program.graph, spatial(program, inputs))
        known = spatial(replace(program, graph=graph), inputs)
        kept_in = None if self.cache == "float32" else self.cache
        program.incremental = incremental(graph, known, kept_in, frozenset(self.dropped), self.norms, self.reaching)
        found = program.incremental
        return Report(self.name, {"": {"kept": len(found.kept), "indices": len(found.indices), "whole": list(found.whole)}})

"""Let the low-rank branch read what is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aquatint.compiler.edit import is_call
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.formats import format_named
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.program import Program

FORMATS = ("int8",)


@dataclass(frozen=True)
class Branch:
    """The way down reads 8 bits of each row, as the product beside it does, and not what they were made of.

    Before:  %q = aquatint::quantize(%x, @g.smooth, @g.down, format='int8', axis=-1)
    After:   %q = aquatint::quantize(%x, @g.smooth, @g.down, format='int8', axis=-1, branch='int8')

    Leaves alone: what is quantized to floats, whose kernels have the branch in 16 bits.
    """

    format: str = "int8"
    name: ClassVar[str] = "branch"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError(f"no low-rank branch reads {self.format!r}; known: {', '.join(FORMATS)}")

    def run(self, program: Program, context: Context) -> Report:
        quantizes = [n for n in program.graph.nodes if is_call(n, "aquatint::quantize")]
        found = [n for n in quantizes if len(n.args) > 2 and n.args[2] is not None]
        whole = [n for n in found if format_named(str(n.kwargs["format"])).kind == "int"]
        for node in whole:
            node.kwargs = {**node.kwargs, "branch": self.format}
        return Report(self.name, {"": {"branches": len(whole)}})

"""Split a low-rank branch of 8 or 16 bits off each weight, so that what is left quantizes well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from aquatint.compiler.decompose import LowRank
from aquatint.compiler.edit import insert_after, new_weight
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.numerics import total
from aquatint.compiler.pipeline import Context, Report
from aquatint.compiler.plan import Group
from aquatint.compiler.powers import rounded
from aquatint.compiler.problem import Problem, problem_of, split_rows
from aquatint.compiler.program import Program, Site
from aquatint.compiler.statistics import convolution_geometry
from aquatint.runtime.ops import operator_named


@dataclass(frozen=True)
class LowRankBranch:
    """W = up down + residual, the rank from the site's treatment (SVDQuant, arXiv 2411.05007, section 4.2).

    Before:  %y = aten::linear.default(%x, @to_q.weight, @to_q.bias)
    After:   %h = aten::linear.default(%x, @to_q.down)                    # shared by siblings on %x
             %r = aten::linear.default(%x, @to_q.weight, @to_q.bias)      # the residual
             %u = aten::linear.default(%h, @to_q.up)
             %y = aten::add.Tensor(%r, %u)

    1. Alternates: L = the leading part of W - E, E = what rounding the residual W - L takes away or adds, while the
       squared output error falls, at most `alternations` times (on 1152-wide blocks it falls for about 35).
    2. A k x k convolution gets a k x k down-convolution to r channels and a 1 x 1 up-convolution.
    3. The branch is rounded before the residual is taken, so that its own rounding is quantized away too: to bfloat16, or to 8
       `bits` with a power of two for each rank, which bfloat16 holds exactly.
    Leaves alone: treatments of rank 0.
    """

    alternations: int = 100
    rows: int = 512
    bits: int = 8
    name: ClassVar[str] = "lowrank"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise RecipeError(f"a low-rank branch is stored in 8 or 16 bits, not in {self.bits}")

    def run(self, program: Program, context: Context) -> Report:
        chosen = [g for g in context.groups(program) if g.treatment.rank]
        found: dict[str, dict[str, object]] = {}
        branches: list[tuple[Group, LowRank]] = []
        for group, seen in context.sweep("low rank", program, chosen, self.rows):
            problem = problem_of(program, group, seen)
            branch, rounds = self._alternate(problem)
            kept = 1 - total(_residual(problem, branch).square()) / total(problem.weight.square())
            branches.append((group, branch))
            found |= {s.name: {"rank": len(branch.down), "energy": kept, "rounds": rounds} for s in group.sites}
        for group, branch in branches:
            _apply(program, group, branch)
        return Report(self.name, found)

    def _alternate(self, problem: Problem) -> tuple[LowRank, int]:
        seen = problem.quantized_rows()
        lost = torch.zeros_like(problem.weight)
        best: tuple[float, LowRank] | None = None
        basis: Tensor | None = None
        for rounds in range(1, self.alternations + 1):
            shifted = Problem(problem.rows, problem.weight - lost, problem.weights_format, problem.inputs_format, problem.rank)
            branch, _ = shifted.split(basis, steps=3)
            assert branch is not None
            branch = self._rounded(branch)
            residual = _residual(problem, branch)
            stored = problem.weights_format.roundtrip(residual)
            error = problem.error(residual, stored, seen)
            if best is not None and error >= best[0]:
                return best[1], rounds - 1
            best, basis, lost = (error, branch), branch.basis, stored
        assert best is not None
        return best[1], self.alternations

    def _rounded(self, branch: LowRank) -> LowRank:
        if self.bits == 8:
            return replace(branch, up=rounded(branch.up, 1), down=rounded(branch.down, 0))
        return replace(branch, up=branch.up.bfloat16().float(), down=branch.down.bfloat16().float())


def _residual(problem: Problem, branch: LowRank) -> Tensor:
    return problem.weight - (branch.up @ branch.down).view_as(problem.weight)


def _apply(program: Program, group: Group, branch: LowRank) -> None:
    first = group.sites[0]
    like = program.weights[first.weight]
    down = first.unrows(branch.down.view(-1, first.taps, first.width), like).to(like.dtype).contiguous()
    source = program.node_of(first).args[0]
    assert isinstance(source, fx.Node)
    with insert_after(program, source):
        down_weight = new_weight(program, f"{group.name}.down", down)
    with program.graph.inserting_after(down_weight):
        h = _product(program, first, source, down_weight, program.node_of(first))
    for site, up in split_rows(group, branch.up):
        weight = program.weights[site.weight]
        program.weights[site.weight] = replace(program.weights.derived(site.weight), up=up, down=down)
        node = program.node_of(site)
        with program.graph.inserting_after(node):
            shape = up.shape if site.kind == "linear" else (*up.shape, 1, 1)
            up_weight = new_weight(program, f"{site.name}.up", up.to(weight.dtype).reshape(shape).contiguous())
        with program.graph.inserting_after(up_weight):
            raised = program.graph.call_function(node.target, (h, up_weight))  # type: ignore[arg-type]
        with program.graph.inserting_after(raised):
            whole = program.graph.call_function(operator_named("aten::add.Tensor"), (node, raised))
        node.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)


def _product(program: Program, site: Site, source: fx.Node, weight: fx.Node, like: fx.Node) -> fx.Node:
    if site.kind == "linear":
        return program.graph.call_function(like.target, (source, weight))  # type: ignore[arg-type]
    stride, padding, dilation = convolution_geometry(like)
    return program.graph.call_function(like.target, (source, weight, None, stride, padding, dilation))  # type: ignore[arg-type]

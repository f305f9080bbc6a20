"""How passes run: in the recipe's order, each on a copy, verified, and with a report by site."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aquatint.compiler import statistics
from aquatint.compiler.errors import AquatintError, PassError
from aquatint.compiler.plan import Decision, Group, groups
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Pass, spec
from aquatint.compiler.statistics import Calibration, Statistics
from aquatint.compiler.verify import verify

Progress = Callable[[str, int, int], None]
"""Called as (what, done, of how many)."""


@dataclass(frozen=True)
class Report:
    """What one pass did: figures by site; what is left alone, and why, is in the decisions."""

    step: str
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a pass may know besides the program: decisions, calibration data, the user's progress bar."""

    decisions: Mapping[str, Decision]
    calibration: Calibration
    progress: Progress = lambda what, done, total: None

    def groups(self, program: Program) -> list[Group]:
        return groups(program, dict(self.decisions))

    def sweep(
        self, what: str, program: Program, chosen: list[Group], rows: int = 512, gram: bool = False
    ) -> Iterator[tuple[Group, Statistics]]:
        """Each group with what calibration shows of its input; see `statistics.sweep`."""
        found = statistics.sweep(program, chosen, self.calibration, rows, gram)
        for done, (group, seen) in enumerate(found):
            self.progress(f"{what} {group.name}", done, len(chosen))
            yield group, seen
        self.progress(what, len(chosen), len(chosen))


def run_pass(program: Program, step: Pass, context: Context) -> tuple[Program, Report]:
    """`step` on a copy of `program`, verified. Raises PassError with the pass's name; the program stays as it was."""
    changed = program.copy()
    began = time.perf_counter()
    try:
        report = step.run(changed, context)
        changed.drop_unused()
        changed.log = (*program.log, spec(step))
        verify(changed)
    except PassError as error:
        raise PassError(f"pass {spec(step)} failed: {error}. The program is as it was before it.") from error
    except AquatintError:
        raise
    except Exception as error:
        raise PassError(f"pass {spec(step)} failed: {error}. The program is as it was before it.") from error
    return changed, replace(report, step=spec(step), seconds=time.perf_counter() - began)


def run_recipe(program: Program, passes: tuple[Pass, ...], context: Context) -> tuple[Program, list[Report]]:
    """All passes in order."""
    reports: list[Report] = []
    for step in passes:
        program, report = run_pass(program, step, context)
        reports.append(report)
    return program, reports

"""What was done to a model, site by site: plain data, the same for the same seed, so without times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from aquatint.compiler.costs import Cost
from aquatint.compiler.pipeline import Report
from aquatint.compiler.plan import Decision
from aquatint.compiler.program import Program, Site, narrowest, smallest


def assemble(
    original: Program, final: Program, recipe: str, decisions: Mapping[str, Decision], reports: Iterable[Report]
) -> dict[str, Any]:
    """The report of one compilation, as JSON.

    sites  one row each, in graph order: name, kind, shape, treatment or None, reason, bytes before and after, and what the
           passes measured: error (relative output error), sqnr (dB), alpha, beta, rank, energy
    """
    reports = list(reports)
    measured: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, figures in report.sites.items():
            measured.setdefault(name, {}).update(figures)
    rows = [_row(original, final, site, decisions[site.name], measured.get(site.name, {})) for site in final.sites]
    return {
        "model": original.name,
        "recipe": recipe,
        "torch": torch.__version__,
        "passes": [{"step": r.step, **r.sites.get("", {})} for r in reports],
        "bytes": {"before": original.nbytes(), "after": final.nbytes()},
        "sites": rows,
    }


def with_costs(report: dict[str, Any], costs: Iterable[Cost]) -> dict[str, Any]:
    """The report with what each site took before and after, in milliseconds a call of the first calibration inputs."""
    known = {c.site: {"ms before": round(c.before * 1e3, 4), "ms after": round(c.after * 1e3, 4)} for c in costs}
    return {**report, "sites": [{**row, **known.get(row["name"], {})} for row in report["sites"]]}


def _row(original: Program, final: Program, site: Site, decision: Decision, figures: Mapping[str, Any]) -> dict[str, Any]:
    before = sum(narrowest(original.weights[w]).nbytes for w in (site.weight, site.bias) if w and w in original.weights)
    after = sum(smallest(name, w).nbytes for name, w in final.weights.items() if _belongs(name, site))
    shape = [site.outputs, site.width] if site.kind == "linear" else [site.outputs, site.width, *site.kernel]
    return {
        "name": site.name,
        "kind": site.kind,
        "shape": shape,
        "treatment": str(decision.treatment) if decision.treatment else None,
        "reason": decision.reason,
        "bytes before": before,
        "bytes after": after,
        **figures,
    }


def _belongs(weight: str, site: Site) -> bool:
    parts = {f"{site.name}.{part}" for part in ("codes", "scales", "smooth", "down", "up")}
    return weight in parts or weight in (site.weight, site.bias)


def megabytes(size: int) -> str:
    """`size` in bytes, for people."""
    return f"{size / 1e6:.2f} MB"

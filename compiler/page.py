"""The report as one self-contained page: a summary, plots of the errors, sample grids side by side, a table by site."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from aquatint.compiler.report import megabytes

STYLE = """
:root { --ink: #23262b; --soft: #6b7280; --line: #e3e5e8; --plate: #b4543a; --paper: #fcfbf9; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1080px;
  padding: 2.5rem 1.5rem; }
h1 { font-weight: 600; margin: 0; } h2 { font-weight: 600; font-size: 1.15rem; margin: 2.5rem 0 .6rem; }
.lead { color: var(--soft); margin: .2rem 0 1.6rem; }
.facts { display: flex; flex-wrap: wrap; gap: 2.5rem; }
.facts b { display: block; font-size: 1.7rem; font-weight: 600; color: var(--plate); }
.facts span, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 0; } .grids { display: flex; flex-wrap: wrap; gap: 1.4rem; }
.grids img { width: 240px; image-rendering: pixelated; border-radius: 4px; display: block; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th { text-align: left; color: var(--soft); font-weight: 500; position: sticky; top: 0; background: var(--paper); }
td, th { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.kept td { color: var(--soft); } code { font-size: .85rem; overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Table:
    """A plain table: a title, a header, rows of text; all columns but the first are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(report: Mapping[str, Any], pictures: Sequence[Picture] = (), tables: Sequence[Table] = ()) -> str:
    """HTML with nothing outside itself: styles, plots and pictures are inline."""
    if not report:
        return _document("aquatint", "<h1>No report</h1>")
    treated = [row for row in report["sites"] if row["treatment"]]
    body = [
        f"<h1>{escape(report['model'])}</h1>",
        f"<p class=lead>by aquatint, recipe <code>{escape(report['recipe'])}</code></p>",
        _facts(report, treated),
        *(_table(table) for table in tables),
        _grids(pictures),
        *(("<h2>Output error by site</h2>", _plot(treated)) if treated else ()),
        "<h2>Sites</h2>",
        _site_table(report["sites"]),
        "<h2>Passes</h2>",
        "<p>" + "<br>".join(f"<code>{escape(p['step'])}</code>" for p in report["passes"]) + "</p>",
    ]
    return _document(report["model"], "\n".join(body))


def _document(title: str, body: str) -> str:
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"


def _facts(report: Mapping[str, Any], treated: list[Mapping[str, Any]]) -> str:
    before, after = report["bytes"]["before"], report["bytes"]["after"]
    errors = sorted(row["error"] for row in treated if "error" in row)
    facts: list[tuple[str, str]] = []
    if "steps" in (learned := report.get("distillation", {})):
        facts.append((f"{learned['steps']}", "steps an image"))
        if "quantized" in learned:
            facts.append((f"{_ratio(learned, 'quantized'):.2f}×", "nearer to the student before it was quantized than without"))
        else:
            nearer = (
                f"to the teacher's images in many steps than its own sampler in as few (method {escape(learned['method'])})"
            )
            facts.append((f"{_ratio(learned, 'teacher'):.1f}× nearer", nearer))
    if treated or not learned:
        facts += [
            (f"{before / after:.2f}×", f"smaller as stored: {megabytes(before)} → {megabytes(after)}"),
            (f"{len(treated)} / {len(report['sites'])}", "sites compressed"),
        ]
    if errors:
        facts.append((f"{errors[len(errors) // 2]:.3f}", "median relative output error of a site"))
    return "<div class=facts>" + "".join(f"<div><b>{a}</b><span>{b}</span></div>" for a, b in facts) + "</div>"


def _ratio(learned: Mapping[str, Any], other: str) -> float:
    """How many times nearer a student is than the other."""
    return learned[other] / max(learned["student"], 1e-9)


def _table(table: Table) -> str:
    head = "".join(f"<th{' class=n' if i else ''}>{escape(h)}</th>" for i, h in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i else ''}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _grids(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = [
        f"<figure><img alt='{escape(p.caption)}' src='data:image/png;base64,{base64.b64encode(p.png).decode()}'>"
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in pictures
    ]
    return "<h2>Samples, same seeds</h2><div class=grids>" + "".join(figures) + "</div>"


def _site_table(sites: Sequence[Mapping[str, Any]]) -> str:
    header = ("site", "shape", "treatment", "error", "SQNR dB", "smoothing α, β", "bytes", "")
    head = "".join(f"<th{' class=n' if h in ('error', 'SQNR dB', 'bytes') else ''}>{h}</th>" for h in header)
    return f"<table><tr>{head}</tr>" + "".join(_site_row(row) for row in sites) + "</table>"


def _site_row(row: Mapping[str, Any]) -> str:
    shape = "×".join(map(str, row["shape"]))
    saved = f"{row['bytes before']:,} → {row['bytes after']:,}"
    if row["treatment"] is None:
        return (
            f"<tr class=kept><td><code>{escape(row['name'])}</code><td>{shape}<td colspan=4>{escape(row['reason'])}"
            f"<td class=n>{row['bytes before']:,}<td></tr>"
        )
    smoothing = f"{row['alpha']:.2f}, {row['beta']:.2f}" if "alpha" in row else ""
    return (
        f"<tr><td><code>{escape(row['name'])}</code><td>{shape}<td>{escape(row['treatment'])}"
        f"<td class=n>{row.get('error', 0):.4f}<td class=n>{_decibel(row.get('sqnr'))}<td>{smoothing}"
        f"<td class=n>{saved}<td></tr>"
    )


def _decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def _plot(treated: list[Mapping[str, Any]]) -> str:
    """Relative output error of every compressed site, in graph order, as inline SVG with reproducible names."""
    rows = [row for row in treated if "error" in row]
    if not rows:
        return "<p class=lead>No site was measured.</p>"
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "aquatint", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(10.4, 2.6), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.bar(range(len(rows)), [row["error"] for row in rows], color="#b4543a", width=0.8)
        axes.set(xlabel="compressed sites, first to last", ylabel="relative output error", xlim=(-0.7, len(rows) - 0.3))
        axes.spines[["top", "right"]].set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().partition("<svg")[2].join(("<svg", ""))

"""The report: one HTML page that needs nothing from elsewhere, a pure function of its story."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expunge.report import figures, words
from expunge.report.charts import glyph
from expunge.report.grouping import Group, Pooled, direction, groups, ideal, judge, names
from expunge.report.panels import image
from expunge.report.report_data import ReportData, ReportedCost, Sample
from expunge.report.robustness import robustness

_SHORT = 8  # scores in the short table where the story names none
_ARROWS = {
    "lower": ("↓", "lower is better"),
    "higher": ("↑", "higher is better"),
    "retrained": ("≈", "best when close to the retrained model"),
}
_ROLES = {
    "original": "before forgetting",
    "retrained": "never saw the data",
    "random": "untrained weights",
    "filter": "original behind an input filter",
}
_LEVELS = {"fail": ("✕", "Failed"), "warn": ("!", "To look at"), "pass": ("✓", "Passed")}


@dataclass(frozen=True)
class Column:
    """A score of the tables: how to read it."""

    name: str
    arrow: str
    better: str
    ideal: str
    notes: list[str]  # what it measures, by which definition, why it is missing


@dataclass(frozen=True)
class TableCell:
    """A value of the tables; `mark` is what it means (reached, missed or nothing), `sort` what to sort it by."""

    text: str
    small: str = ""
    mark: str = ""
    hover: str = ""
    sort: float | None = None


def build(report_data: ReportData) -> str:
    """The page's HTML."""
    rows = groups(report_data.models)
    every = names(report_data.models)
    lead = [n for n in dict.fromkeys([report_data.utility, report_data.quality, *every]) if n in every]
    main = [n for n in report_data.main if n in every] or lead[:_SHORT]
    panels, legend = figures.training(rows)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=words.number, pretty=words.pretty, count=words.count, duration=words.duration, plain=figures.plain)
    environment.globals.update(glyph=glyph, roles=_ROLES, levels=_LEVELS, dash=words.DASH)
    return environment.get_template("template.html.j2").render(
        report_data=report_data,
        rows=rows,
        seeded=any(len(g.entries) > 1 for g in rows),
        verdict=sorted(report_data.verdict, key=lambda v: list(_LEVELS).index(v.level)),
        headline=_headline(report_data),
        main=_columns(report_data, rows, main),
        short=[(g, [_cell(rows, g, n) for n in main]) for g in rows],
        full=[(c, [_cell(rows, g, c.name) for g in rows]) for c in _columns(report_data, rows, every)],
        tradeoff=figures.tradeoff(report_data, rows),
        ecdfs=figures.ecdfs(rows),
        training=panels,
        legend=legend,
        progress=figures.progress(rows),
        robust=robustness(rows),
        relearning=figures.relearning(rows),
        shown=figures.shown(rows),
        classes=image.pictures(report_data, rows),
        strip=_strip(report_data),
        samples=[(s, _texts(report_data, s)) for s in report_data.samples if not s.picture],
        costs=_costs(rows),
        receipts=[(e.name, e.receipt) for e in report_data.models if e.receipt],
    )


def write(report_data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(build(report_data), encoding="utf-8", errors="replace")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _headline(report_data: ReportData) -> str:
    many = {level: sum(v.level == level for v in report_data.verdict) for level in _LEVELS}
    total = len(report_data.verdict)
    if not total:
        return "No verdict was recorded"
    checks = "check" if total == 1 else "checks"
    if many["fail"]:
        return f"{many['fail']} of {total} {checks} failed"
    return (
        f"No check failed, {many['warn']} of {total} to look at"
        if many["warn"]
        else f"All {total} {checks} passed"
        if total > 1
        else "The one check passed"
    )


def _columns(report_data: ReportData, rows: Sequence[Group], wanted: Sequence[str]) -> list[Column]:
    out = []
    for name in wanted:
        best, scores = ideal(rows, name), [s for g in rows if (s := g.get(name))]
        p = any(s.p for s in scores)
        told = [report_data.meanings.get(name, ""), *(s.of.variant for s in scores), *(s.of.missing for s in scores)]
        arrow, better = _ARROWS[direction(rows, name)]
        target = "p ≥ 0.05" if p else words.number(best[1], _decimals(rows, name)) if best else words.DASH
        out.append(Column(name, arrow, better, target, list(dict.fromkeys(filter(None, told)))))
    return out


def _decimals(rows: Sequence[Group], name: str) -> int | None:
    return words.decimals(g.value(name) for g in rows)


def _cell(rows: Sequence[Group], g: Group, name: str) -> TableCell:
    score = g.get(name)
    if score is None:
        return TableCell(words.DASH)
    if score.value is None:
        return TableCell(words.DASH, hover=score.of.missing)
    decimals, told, mark = _decimals(rows, name), len(score.seeds), judge(rows, g, name)
    small = words.span(score.low, score.high, decimals)
    if told < score.total:  # a seed without a value must show, it may be the one that broke
        small = f"{small}, {told} of {score.total} seeds".removeprefix(", ")
    return TableCell(words.number(score.value, decimals), small, mark, _hover(score, mark), score.value)


def _hover(score: Pooled, mark: str) -> str:
    meaning = {"reached": "reaches the ideal", "missed": "no better than the original, or not kept"}.get(mark, "")
    seeds = "seeds: " + ", ".join(words.number(v) for v in score.seeds) if score.total > 1 else ""
    items = f"n = {score.of.n:,}" if score.of.n is not None else ""
    return "; ".join(part for part in (meaning, seeds, items) if part)


@dataclass(frozen=True)
class Said:
    """One model's text beside the others, cut where its words differ from the original's."""

    name: str
    role: str
    runs: list[tuple[str, str]]


def _texts(report_data: ReportData, sample: Sample) -> list[Said]:
    order = {e.name: (i, e.role) for i, g in enumerate(groups(report_data.models)) for e in g.entries}
    told = sorted(sample.said, key=lambda n: order.get(n, (len(order), "")))
    base = next((n for n in told if n in order and order[n][1] == "original"), None)
    before = sample.answer if base is None else sample.said[base]
    return [Said(n, order.get(n, (0, ""))[1], [("same", before)] if n == base else words.changed(before, sample.said[n])) for n in told]


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, and what each model calls them."""

    sets: list[tuple[str, int]]  # in the order of the pictures: what they are, and how many
    pictures: list[Sample]
    rows: list[tuple[str, str, list[str]]]  # name and role of a model, what it calls each


def _strip(report_data: ReportData) -> Strip | None:
    order = list(dict.fromkeys(s.set for s in report_data.samples if s.picture))
    if not order:
        return None
    pictures = sorted((s for s in report_data.samples if s.picture), key=lambda s: order.index(s.set))
    sets = [(n, sum(p.set == n for p in pictures)) for n in order]
    told = [(e.name, e.role) for g in groups(report_data.models) for e in g.entries if any(e.name in p.said for p in pictures)]
    return Strip(sets, pictures, [(name, role, [p.said.get(name, "") for p in pictures]) for name, role in told])


def _costs(rows: Sequence[Group]) -> list[dict[str, Any]]:
    known = [(g, [e.cost for e in g.entries if e.cost]) for g in rows]
    whole = next((s for g, costs in known if g.role == "retrained" and (s := _mean(costs, "seconds"))), None)
    out: list[dict[str, Any]] = []
    for g, costs in known:
        if costs:
            seconds = _mean(costs, "seconds")
            ratio = words.finite(seconds / whole) if seconds is not None and whole else None
            out.append(
                {
                    "row": g,
                    "time": TableCell(words.duration(seconds), sort=seconds),
                    "share": TableCell(words.share(ratio), sort=ratio),
                    "tokens": TableCell(words.count(_mean(costs, "tokens")), sort=_mean(costs, "tokens")),
                    "flops": TableCell(words.flops(_mean(costs, "flops")), sort=_mean(costs, "flops")),
                    "memory": TableCell(words.size(_mean(costs, "peak_memory_bytes")), sort=_mean(costs, "peak_memory_bytes")),
                }
            )
    longest = max((c["time"].sort or 0.0 for c in out), default=0.0)
    return [{**c, "bar": round(100 * max(0.0, c["time"].sort or 0.0) / longest, 1) if longest > 0 else 0} for c in out]


def _mean(costs: Sequence[ReportedCost], name: str) -> float | None:
    told = [v for c in costs if (v := words.finite(getattr(c, name))) is not None]
    return sum(told) / len(told) if told else None

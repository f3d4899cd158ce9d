"""The report: one HTML page that needs nothing from elsewhere, a pure function of its story."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import Markup

from expunge import catalog
from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.report import figures, words
from expunge.report.first_screen import first_screen
from expunge.report.grouping import Group, Pooled, direction, groups, ideal, judge, names
from expunge.report.published import published_table
from expunge.report.report_data import ReportData, ReportedCost, Sample
from expunge.report.robustness import robustness
from expunge.report.states import model_states
from expunge.report.templates import render

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
    """A value of the tables; `mark` is its judgment (reached, missed or nothing), `sort` what to sort it by."""

    text: str
    small: str = ""
    mark: str = ""
    hover: str = ""
    sort: float | None = None


@dataclass(frozen=True)
class Panels:
    """What the panels of a story add to the page."""

    html: Markup
    style: Markup
    links: list[tuple[str, str]]  # (id of a section, its name in the navigation)
    unknown: list[str]  # panels that are not installed


def build(report_data: ReportData) -> str:
    """The page's HTML.

    Raises:
        pydantic.ValidationError: when a panel does not understand its data.
    """
    rows = groups(report_data.models)
    every = names(report_data.models)
    lead = [name for name in dict.fromkeys([report_data.utility, report_data.quality, *every]) if name in every]
    main = [name for name in report_data.main if name in every] or lead[:_SHORT]
    training, legend = figures.training(rows)
    return render(
        "template.html.j2",
        roles=_ROLES,
        report_data=report_data,
        rows=rows,
        seeded=any(len(group.entries) > 1 for group in rows),
        screen=first_screen(report_data),
        states=model_states(report_data),
        main=_columns(rows, main),
        short=[(group, [_cell(rows, group, name) for name in main]) for group in rows],
        full=[(column, [_cell(rows, group, column.name) for group in rows]) for column in _columns(rows, every)],
        published=published_table(report_data, rows),
        tradeoff=figures.tradeoff(report_data, rows),
        strip=_strip(report_data),
        panels=_panels(report_data, rows),
        training=training,
        legend=legend,
        progress=figures.progress(rows),
        robust=robustness(rows),
        relearning=figures.relearning(rows),
        shown=figures.shown(rows),
        samples=[(sample, _texts(report_data, sample)) for sample in report_data.samples if not sample.picture],
        costs=_costs(rows),
        unit=_unit(rows),
        receipts=[(entry.name, entry.receipt) for entry in report_data.models if entry.receipt],
    )


def _panels(report_data: ReportData, rows: Sequence[Group]) -> Panels:
    """The panels of the story, in its order. A panel without anything to show adds no style either."""
    sections, styles, unknown = [], [], []
    for name in report_data.shown_panels:
        try:
            module = catalog.load(name, "panels")
        except UserError:
            unknown.append(name)
            continue
        if html := module.html(report_data, rows):
            sections.append(html)
            styles.append(getattr(module, "STYLE", ""))
    body = "\n".join(sections)
    return Panels(Markup(body), Markup("\n".join(filter(None, styles))), list(_links(body)), unknown)


def _links(html: str) -> Iterator[tuple[str, str]]:
    """The sections that want a link in the navigation, as (id, name)."""
    parser = _Sections()
    parser.feed(html)
    yield from parser.links


class _Sections(HTMLParser):
    """Reads the sections that have an id and a name for the navigation."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        section, name = attributes.get("id"), attributes.get("data-nav")
        if tag == "section" and section and name:
            self.links.append((section, name))


def write(report_data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole or not at all.

    Returns:
        The path of the page.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(build(report_data), encoding="utf-8", errors="replace")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _columns(rows: Sequence[Group], score_names: Sequence[str]) -> list[Column]:
    columns = []
    for name in score_names:
        best, scores = ideal(rows, name), [score for group in rows if (score := group.get(name))]
        p = any(score.p for score in scores)
        notes = [*(score.of.meaning for score in scores), *(score.of.variant for score in scores), *(score.of.missing for score in scores)]
        arrow, better = _ARROWS[direction(rows, name)]
        target = "p ≥ 0.05" if p else words.number(best[1], _decimals(rows, name)) if best else words.DASH
        columns.append(Column(name, arrow, better, target, list(dict.fromkeys(filter(None, notes)))))
    return columns


def _decimals(rows: Sequence[Group], name: str) -> int | None:
    return words.decimals(group.value(name) for group in rows)


def _cell(rows: Sequence[Group], group: Group, name: str) -> TableCell:
    score = group.get(name)
    if score is None:
        return TableCell(words.DASH)
    if score.value is None:
        return TableCell(words.DASH, hover=score.of.missing)
    decimals, known, mark = _decimals(rows, name), len(score.seeds), judge(rows, group, name)
    small = words.span(score.low, score.high, decimals)
    if known < score.total:  # the page must tell of a seed without a value: it may be the one that broke
        small = f"{small}, {known} of {score.total} seeds".removeprefix(", ")
    return TableCell(words.number(score.value, decimals), small, mark, _hover(score, mark), score.value)


def _hover(score: Pooled, mark: str) -> str:
    judgment = {"reached": "reaches the ideal", "missed": "no better than the original, or not kept"}.get(mark, "")
    seeds = "seeds: " + ", ".join(words.number(value) for value in score.seeds) if score.total > 1 else ""
    items = f"n = {score.of.n:,}" if score.of.n is not None else ""
    return "; ".join(part for part in (judgment, seeds, items) if part)


@brief()
@dataclass(frozen=True)
class ModelText:
    """One model's text beside the others, cut where its words differ from the original's."""

    name: str
    role: str
    runs: list[tuple[str, str]]


def _texts(report_data: ReportData, sample: Sample) -> list[ModelText]:
    """What the models say to a question, in the order of the rows."""
    order = {entry.name: (i, entry.role) for i, group in enumerate(groups(report_data.models)) for entry in group.entries}
    models = sorted(sample.model_answers, key=lambda name: order.get(name, (len(order), "")))
    base = next((name for name in models if name in order and order[name][1] == "original"), None)
    before = sample.answer if base is None else sample.model_answers[base]
    runs = {name: [("same", before)] if name == base else words.changed(before, sample.model_answers[name]) for name in models}
    return [ModelText(name, order.get(name, (0, ""))[1], runs[name]) for name in models]


@brief()
@dataclass(frozen=True)
class Strip:
    """Pictures side by side, and what each model calls them."""

    sets: list[tuple[str, int]]  # in the order of the pictures: the name of a set, and how many pictures it has
    pictures: list[Sample]
    rows: list[tuple[str, str, list[str]]]  # name and role of a model, what it calls each picture


def _strip(report_data: ReportData) -> Strip | None:
    """The pictures among the samples; None without any."""
    order = list(dict.fromkeys(sample.set for sample in report_data.samples if sample.picture))
    if not order:
        return None
    pictures = sorted((sample for sample in report_data.samples if sample.picture), key=lambda sample: order.index(sample.set))
    sets = [(name, sum(picture.set == name for picture in pictures)) for name in order]
    entries = [
        entry for group in groups(report_data.models) for entry in group.entries if any(entry.name in p.model_answers for p in pictures)
    ]
    return Strip(sets, pictures, [(e.name, e.role, [picture.model_answers.get(e.name, "") for picture in pictures]) for e in entries])


@dataclass(frozen=True)
class CostRow:
    """A row of the table of costs; `bar` is its time in percent of the longest."""

    row: Group
    time: TableCell
    share: TableCell
    tokens: TableCell
    flops: TableCell
    memory: TableCell
    bar: float


def _costs(rows: Sequence[Group]) -> list[CostRow]:
    """What each row cost, seeds averaged."""
    known = [(group, costs) for group in rows if (costs := [entry.cost for entry in group.entries if entry.cost])]
    retraining = next((s for group, costs in known if group.role == "retrained" and (s := _mean(costs, "seconds"))), None)
    longest = max((_mean(costs, "seconds") or 0.0 for _, costs in known), default=0.0)
    cost_rows = []
    for group, costs in known:
        seconds, tokens, flops, memory = (_mean(costs, name) for name in ("seconds", "tokens", "flops", "peak_memory_bytes"))
        ratio = words.finite(seconds / retraining) if seconds is not None and retraining else None
        cost_rows.append(
            CostRow(
                group,
                time=TableCell(words.duration(seconds), sort=seconds),
                share=TableCell(words.share(ratio), sort=ratio),
                tokens=TableCell(words.count(tokens), sort=tokens),
                flops=TableCell(words.flops(flops), sort=flops),
                memory=TableCell(words.size(memory), sort=memory),
                bar=round(100 * max(0.0, seconds or 0.0) / longest, 1) if longest > 0 else 0,
            )
        )
    return cost_rows


def _unit(rows: Sequence[Group]) -> str:
    """What the costs count, as the heading of a column."""
    return " or ".join(dict.fromkeys(entry.cost.unit for group in rows for entry in group.entries if entry.cost)).capitalize()


def _mean(costs: Sequence[ReportedCost], name: str) -> float | None:
    values = [value for cost in costs if (value := words.finite(getattr(cost, name))) is not None]
    return sum(values) / len(values) if values else None

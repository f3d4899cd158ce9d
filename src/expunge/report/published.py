"""Published numbers beside ours: what a paper reports of a method, and what this run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.functional.brief import brief
from expunge.report import words
from expunge.report.grouping import Group
from expunge.report.report_data import ReportData


@brief("scores")
@dataclass(frozen=True)
class PublishedTable:
    """The table: the names of its scores, and by method, for each score, the published value and ours, as text."""

    scores: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


def published_table(report_data: ReportData, rows: Sequence[Group]) -> PublishedTable | None:
    """The published numbers beside ours; None without any."""
    if not report_data.published:
        return None
    scores = list(dict.fromkeys(name for values in report_data.published.values() for name in values))
    lines = []
    for method, values in report_data.published.items():
        group = next((g for g in rows if method in (g.role, g.method, g.label)), None)
        lines.append((method, [_pair(values, group, name) for name in scores]))
    return PublishedTable(scores, lines)


def _pair(values: Mapping[str, float | None], group: Group | None, name: str) -> tuple[str, str]:
    """The published value and ours."""
    return words.number(values.get(name)), words.number(group.value(name)) if group else words.DASH

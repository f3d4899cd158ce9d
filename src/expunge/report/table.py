"""Rows of models and columns of scores, as text: for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expunge.report.grouping import Group, Pooled, direction, groups, judge
from expunge.report.report_data import Entry
from expunge.report.words import DASH, decimals, number

_ARROWS = {"lower": "↓", "higher": "↑", "retrained": "≈"}
_SIGNS = {"reached": ("✓ ", "green"), "missed": ("✕ ", "red"), "": ("", "")}
NAME = 24  # columns of a terminal that a model's name takes at most, before it is folded


class TextCell(NamedTuple):
    """One score of one model, in one line or in two."""

    value: str
    spread: str = ""
    seeds: str = ""  # how many seeds have a value, where not all do
    color: str = ""

    def lines(self, intervals: bool) -> list[str]:
        """The lines of the cell; `intervals`: also the intervals of single values."""
        return list(filter(None, [self.value, self.spread if intervals or self.spread[:1] == "±" else "", self.seeds]))


def render(entries: Sequence[Entry], scores: Sequence[str], width: int = 200) -> Table:
    """A table for the terminal: a row a method (seeds pooled), a column a score; ✓ reaches the ideal, ✕ no better than the original.

    Args:
        entries: the models.
        scores: the scores to show, in order.
        width: of the terminal in columns. Parts that do not fit are left out: intervals of single values first, then the last scores.
    """
    rows = groups(entries)
    seeded = any(len(group.entries) > 1 for group in rows)
    name_width = min(NAME, max(len(group.label) for group in rows))
    heads = {n: _broken(_heading(rows, n)) for n in scores}
    cells = {n: [_cell(rows, group, n) for group in rows] for n in scores}

    def fitting(intervals: bool, gap: int) -> list[str]:
        """The first scores that fit, with `gap` columns between two."""
        room, fit = width - name_width - (len("seeds") + gap if seeded else 0), []
        for n in scores:
            room -= gap + max(map(len, [*heads[n], *(line for c in cells[n] for line in c.lines(intervals))]))
            if room < 0:
                break
            fit.append(n)
        return fit

    ways = ((True, 2), (False, 2), (False, 1))
    intervals, gap = next((w for w in ways if len(fitting(*w)) == len(scores)), ways[-1])
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, gap - 1), pad_edge=False)
    shown = fitting(intervals, gap) or list(scores[:1])
    above = "\n" * any(len(heads[n]) > 1 for n in shown)
    table.add_column(f"{above}model", overflow="fold", min_width=name_width)
    if seeded:
        table.add_column(f"{above}seeds", justify="right")
    for n in shown:
        table.add_column(Text("\n".join(heads[n]) if len(heads[n]) > 1 else above + heads[n][0]), justify="right")
    for i, group in enumerate(rows):
        texts = [Text("\n".join(cells[n][i].lines(intervals)), style=cells[n][i].color) for n in shown]
        last = group.role != "method" and i + 1 < len(rows) and rows[i + 1].role == "method"
        table.add_row(Text(group.label), *([Text(str(len(group.entries)))] if seeded else []), *texts, end_section=last)
    if gone := [n for n in scores if n not in shown]:
        table.caption = f"left out at {width} columns: {', '.join(gone)} (--wide shows all)"
        table.caption_justify = "left"
    return table


def _broken(heading: str) -> list[str]:
    """A heading in two lines, at the underscore that leaves the longer one shortest."""
    breaks = [i for i, c in enumerate(heading) if c == "_"]
    at = min(breaks, key=lambda i: max(i, len(heading) - i - 1), default=None)
    return [heading] if at is None else [heading[:at], heading[at + 1 :]]


def _cell(rows: Sequence[Group], group: Group, name: str) -> TextCell:
    score = group.get(name)
    if score is None or score.value is None:
        return TextCell(DASH)
    sign, color = _SIGNS[judge(rows, group, name)]
    digits = decimals(row.value(name) for row in rows)
    return TextCell(sign + number(score.value, digits), _spread(score, digits), _seeds(score), color)


def markdown(entries: Sequence[Entry], scores: Sequence[str]) -> str:
    """The same table in Markdown, for committed results: mean ± half the 95 % interval over seeds, or value [low, high] over items."""
    rows = groups(entries)
    lines = [["model", "seeds", *(_heading(rows, name) for name in scores)], [":--", "--:", *("--:" for _ in scores)]]
    lines += [[group.label, str(len(group.entries)), *(_value(rows, group, name) for name in scores)] for group in rows]
    return "".join(f"| {' | '.join(_literal(cell) for cell in line)} |\n" for line in lines)


def _heading(rows: Sequence[Group], name: str) -> str:
    known = any(group.get(name) for group in rows)
    return f"{name} {_ARROWS[direction(rows, name)]}" if known else name


def _value(rows: Sequence[Group], group: Group, name: str) -> str:
    cell = _cell(rows, group, name)
    value = cell.value.removeprefix(_SIGNS[judge(rows, group, name)][0])
    return " ".join(filter(None, [value, cell.spread, cell.seeds]))


def _spread(score: Pooled, digits: int | None) -> str:
    if score.low is None or score.high is None or score.value is None:
        return ""
    if len(score.seeds) > 1 and not score.p:  # symmetric by construction
        return f"± {number(score.high - score.value, digits)}"
    return f"[{number(score.low, digits)}, {number(score.high, digits)}]"


def _seeds(score: Pooled) -> str:
    return f"({len(score.seeds)} of {score.total} seeds)" if len(score.seeds) < score.total else ""


def _literal(cell: str) -> str:
    """Cell text that Markdown leaves alone."""
    for mark in "\\|*`<":
        cell = cell.replace(mark, f"\\{mark}")
    return " ".join(cell.split())

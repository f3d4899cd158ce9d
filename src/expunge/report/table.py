"""Rows of models and columns of scores, as text: for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .pool import Group, Pooled, direction, groups, judge
from .story import Entry
from .words import DASH, decimals, number

_ARROWS = {"lower": "↓", "higher": "↑", "retrained": "≈"}
_SIGNS = {"reached": ("✓ ", "green"), "missed": ("✕ ", "red"), "": ("", "")}


ROOM = 13  # columns of a terminal that a score with its interval needs


def render(entries: Sequence[Entry], scores: Sequence[str], width: int = 200) -> Table:
    """A table for the terminal: a row a method (seeds pooled), a column a score; ✓ reaches the ideal, ✕ no better than the original.

    width: of the terminal in columns; where intervals do not fit they are left out.
    """
    wide = width >= ROOM * (len(scores) + 2)
    rows = groups(entries)
    seeded = any(len(g.entries) > 1 for g in rows)
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    if seeded:
        table.add_column("seeds", justify="right")
    for name in scores:
        table.add_column(Text(_heading(rows, name)), justify="right")
    for i, g in enumerate(rows):
        cells = [Text(g.label), *([Text(str(len(g.entries)))] if seeded else [])]
        for name in scores:
            sign, colour = _SIGNS[judge(rows, g, name)]
            value = _value(rows, g, name)
            cells.append(Text(sign + (value if wide else value.partition(" [")[0]).replace(" [", "\n["), style=colour))
        last = g.role != "method" and i + 1 < len(rows) and rows[i + 1].role == "method"
        table.add_row(*cells, end_section=last)
    return table


def markdown(entries: Sequence[Entry], scores: Sequence[str]) -> str:
    """The same table in Markdown, for committed results: mean ± half the 95 % interval over seeds, or value [low, high] over items."""
    rows = groups(entries)
    lines = [["model", "seeds", *(_heading(rows, name) for name in scores)], [":--", "--:", *("--:" for _ in scores)]]
    lines += [[g.label, str(len(g.entries)), *(_value(rows, g, name) for name in scores)] for g in rows]
    return "".join(f"| {' | '.join(_literal(cell) for cell in line)} |\n" for line in lines)


def _heading(rows: Sequence[Group], name: str) -> str:
    known = any(g.get(name) for g in rows)
    return f"{name} {_ARROWS[direction(rows, name)]}" if known else name


def _value(rows: Sequence[Group], g: Group, name: str) -> str:
    score = g.get(name)
    if score is None or score.value is None:
        return DASH
    digits = decimals(row.value(name) for row in rows)
    return " ".join(filter(None, [number(score.value, digits), _spread(score, digits), _told(score)]))


def _spread(score: Pooled, digits: int | None) -> str:
    if score.low is None or score.high is None or score.value is None:
        return ""
    if len(score.seeds) > 1 and not score.p:  # symmetric by construction
        return f"± {number(score.high - score.value, digits)}"
    return f"[{number(score.low, digits)}, {number(score.high, digits)}]"


def _told(score: Pooled) -> str:
    return f"({len(score.seeds)} of {score.total} seeds)" if len(score.seeds) < score.total else ""


def _literal(cell: str) -> str:
    """Cell text that Markdown leaves alone."""
    for mark in "\\|*`<":
        cell = cell.replace(mark, f"\\{mark}")
    return " ".join(cell.split())

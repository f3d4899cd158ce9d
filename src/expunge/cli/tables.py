"""Tables for the terminal. Names are never cut: where a table is too wide, columns are left out, and the table says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table

from expunge.cli.console import Printer
from expunge.report.words import number, span

GAP = 2  # blank columns between two columns
NARROWEST = 12  # columns that a folded text keeps


class PrintedColumn(NamedTuple):
    """A column of a table: its heading, its texts, how it is aligned, and its rank.

    rank: 0 always stays; of the others those with the highest numbers are left out first. folds: may take several lines.
    """

    heading: str
    cells: Sequence[str]
    right: bool = True
    rank: int = 0
    folds: bool = False

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.heading, *self.cells)))

    @property
    def least(self) -> int:
        return min(self.width, NARROWEST) if self.folds else self.width


def fitted(columns: Sequence[PrintedColumn], width: int) -> Table:
    """A table of the columns that fit into a width. Where those that always stay do not, their texts take several lines."""
    shown = [c for c in columns if any(c.cells)]
    while sum(c.least + GAP for c in shown) - GAP > width and any(c.rank for c in shown):
        shown.remove(max(shown, key=lambda c: c.rank))
    if sum(c.least + GAP for c in shown) - GAP > width:
        shown = [c if c.right else c._replace(folds=True) for c in shown]
    left_out = {c.heading for c in columns} - {c.heading for c in shown}
    gone = [c.heading for c in columns if any(c.cells) and c.heading in left_out]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), caption_justify="left")
    for c in shown:
        table.add_column(c.heading, justify="right" if c.right else "left", overflow="fold", no_wrap=not c.folds, min_width=c.least)
    for row in zip(*(c.cells for c in shown), strict=True):
        table.add_row(*(text.replace("[", "\\[") for text in row))
    if gone:
        table.caption = f"left out: {', '.join(gone)} (--wide shows all)"
    return table


def show_scores(scores: Mapping[str, Mapping[str, Any]], printer: Printer) -> None:
    """Print a table of scores with their intervals and ideals."""

    def good(r: Mapping[str, Any]) -> str:
        ideal = r["ideal"] if r["ideal"] is not None else r["retrained"]
        if r["direction"] != "retrained":
            return str(r["direction"])
        return f"as retrained ({number(ideal)})" if ideal is not None else "as retrained"

    records = list(scores.values())
    columns = [
        PrintedColumn("score", list(scores), right=False),
        PrintedColumn("value", [number(r["value"]) for r in records]),
        PrintedColumn("95 % interval", [span(*r["interval"]) for r in records], rank=2),
        PrintedColumn("n", [str(r["n"]) for r in records], rank=3),
        PrintedColumn("good is", [good(r) for r in records], right=False, rank=1),
    ]
    if scores:
        printer.table(fitted(columns, printer.width))


def show_curve(curve: Sequence[Mapping[str, Any]], printer: Printer) -> None:
    """Print a table of the scores at each step of an attack."""
    scores = [PrintedColumn(n, [number(point["scores"].get(n)) for point in curve], rank=i) for i, n in enumerate(curve[0]["scores"])]
    printer.table(fitted([PrintedColumn("step", [f"{point['step']:g}" for point in curve]), *scores], printer.width))


def show_attack(result: Mapping[str, Any], name: str, printer: Printer) -> None:
    """Print the result of an attack: each score before and after it, the steps to recover, and the ways that were not possible."""
    rows = [(way or name, score, r) for way, scores in result["ways"].items() for score, r in scores.items()]
    records = [r for _, _, r in rows]
    columns = [
        PrintedColumn("way", [way for way, _, _ in rows], right=False),
        PrintedColumn("score", [score for _, score, _ in rows], right=False),
        PrintedColumn("before", [number(r["before"]) for r in records]),
        PrintedColumn("worst case", [number(r["value"]) for r in records]),
        PrintedColumn("95 % interval", [span(*r["interval"]) for r in records], rank=2),
        PrintedColumn("mean", [number(r["mean"]) for r in records], rank=4),
        PrintedColumn("retrained", [number(r["retrained"]) for r in records], rank=1),
        PrintedColumn("n", [str(r["n"]) for r in records], rank=5),
        PrintedColumn("worst in", [r["case"] for r in records], right=False, rank=3, folds=True),
    ]
    if rows:
        printer.table(fitted(columns, printer.width))
    for way, steps in result["steps_to_recover"].items():
        for held, step in steps.items():
            when = f"after {step:g} steps" if step is not None else "not within the steps taken"
            printer.say(f"{', '.join(filter(None, [way, f'{held} held']))}: came back {when}")
    for case in (t for t in result.get("tries", ()) if not t["scores"]):  # of an attack that reads something else than scores
        numbers = ", ".join(f"{n.replace('_', ' ')} {number(v)}" for n, v in case["at"].items())
        printer.say(f"{', '.join(filter(None, [case['way'], case['case']]))}: {numbers}")
    for way, why in result["missing"].items():
        printer.say(f"{way or name}: {why}")

"""Recommenders: what a few users are recommended by each model, how early forgotten items come up, and users and items one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter

from expunge.report.charts import Line, lines
from expunge.report.figures import Figure
from expunge.report.frame import Axis, Frame
from expunge.report.grouping import Group
from expunge.report.report_data import Entry, ReportData
from expunge.report.templates import render

NAME = "ranking"
STYLE = """.lists td, .lists th { vertical-align: top; text-align: left; padding: .3rem .6rem; }
.lists ol { margin: 0; padding-left: 1.6rem; } .lists mark { background: none; color: var(--fail); font-weight: 600; }
.levels td, .levels th { padding: .15rem .6rem; text-align: right; } .levels th:first-child { text-align: left; }
.levels small { opacity: .7; }
.lists.kept mark { color: inherit; }
"""
_WORDS = {"forget": "Users with interactions to forget", "retain": "Users whose interactions are kept"}
_CURVES = {"forget": "Items to be forgotten", "unseen": "Unseen items"}
SHOWN = 12  # rows of a table of users or items
_ORDER = ("original", "method", "retrained")  # columns of the table; controls are left out
_STRICT = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class ListOfUser:
    """What one user is recommended.

    Args:
        user: the user's id.
        items: the first items, best first.
        marked: those of them that stand in the set.
    """

    user: str
    items: list[str]
    marked: list[str] = field(default_factory=list)


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class OneByOne:
    """The rows to forget of one user, or with one item.

    Args:
        name: the user's or the item's id.
        rows: how many there are.
        recall: share of them among the first K of the ranking.
        place: the median of their places, from 1.
    """

    name: str
    rows: int
    recall: float
    place: float


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class Recommended:
    """The panel's data on one model.

    Args:
        sets: by set, the lists of a few users.
        cut: K of `OneByOne.recall`.
        curves: forget, unseen -> (K, share of the items among the first K of their users' rankings).
        users, items: the rows to forget, user by user and item by item.
    """

    sets: dict[str, list[ListOfUser]] = field(default_factory=dict)
    cut: int = 0
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    users: list[OneByOne] = field(default_factory=list)
    items: list[OneByOne] = field(default_factory=list)


_ADAPTER: TypeAdapter[Recommended] = TypeAdapter(Recommended)


@dataclass(frozen=True)
class UserRow:
    """A row of the table: one user's list under each model, None where a model was not asked."""

    user: str
    cells: tuple[ListOfUser | None, ...]


@dataclass(frozen=True)
class SetTable:
    """The table of one set."""

    name: str
    title: str
    models: tuple[str, ...]
    rows: tuple[UserRow, ...]


@dataclass(frozen=True)
class LevelRow:
    """One user, or one item, under each model, None where a model was not asked; `gap` is in recall, from the retrained model."""

    name: str
    rows: int
    cells: tuple[OneByOne | None, ...]
    gap: float


@dataclass(frozen=True)
class LevelTable:
    """The users, or the items, with rows to forget: those first whose recall is furthest from the retrained model's."""

    title: str
    kind: str
    models: tuple[str, ...]
    rows: tuple[LevelRow, ...]
    total: int


def data(recommended: Recommended) -> dict[str, Any]:
    """What a model recommends as plain JSON data, for `Entry.panels`."""
    plain: dict[str, Any] = _ADAPTER.dump_python(recommended, mode="json")
    return plain


def read(entry: Entry) -> Recommended | None:
    """What a model recommends; None where that is not known. Raises: pydantic.ValidationError."""
    return _ADAPTER.validate_python(entry.panels[NAME]) if NAME in entry.panels else None


def html(report_data: ReportData, rows: Sequence[Group]) -> str:
    """The sections of recommenders; '' where no model is one."""
    known = [(group, shown) for role in _ORDER for group in rows if group.role == role if (shown := read(group.entries[0]))]
    if not known:
        return ""
    levels = [table for kind in ("user", "item") if (table := level_of(known, kind))]
    cut = next((shown.cut for _, shown in known if shown.cut), 0)
    curves = {kind: figures for kind in _CURVES if (figures := curves_of(known, kind))}
    words = {"tables": tables_of(known), "levels": levels, "curves": curves, "titles": _CURVES, "cut": cut}
    return render("panels/ranking.html.j2", **words).strip()


def tables_of(known: Sequence[tuple[Group, Recommended]]) -> list[SetTable]:
    """A table for each set: users down, models across; of several seeds the first."""
    tables = []
    for name, title in _WORDS.items():
        by_model = [(group.label, {one.user: one for one in shown.sets.get(name, [])}) for group, shown in known]
        users = list(dict.fromkeys(user for _, of_users in by_model for user in of_users))
        user_rows = tuple(UserRow(user, tuple(of_users.get(user) for _, of_users in by_model)) for user in users)
        if user_rows:
            tables.append(SetTable(name, title, tuple(label for label, _ in by_model), user_rows))
    return tables


def level_of(known: Sequence[tuple[Group, Recommended]], kind: str) -> LevelTable | None:
    """The rows to forget, user by user or item by item. kind: user or item."""
    by_model = [(group, {one.name: one for one in getattr(shown, f"{kind}s")}) for group, shown in known]
    names = list(dict.fromkeys(name for _, of_names in by_model for name in of_names))
    retrained = next((of_names for group, of_names in by_model if group.role == "retrained"), {})
    methods = [of_names for group, of_names in by_model if group.role == "method"] or [of_names for _, of_names in by_model]

    def gap(name: str) -> float:
        return max((abs(m[name].recall - retrained[name].recall) for m in methods if name in m and name in retrained), default=0.0)

    level_rows = []
    for name in sorted(names, key=gap, reverse=True)[:SHOWN]:
        cells = tuple(of_names.get(name) for _, of_names in by_model)
        level_rows.append(LevelRow(name, next(c.rows for c in cells if c), cells, gap(name)))
    labels = tuple(group.label for group, _ in by_model)
    return LevelTable(f"{kind.capitalize()} by {kind}", kind, labels, tuple(level_rows), len(names)) if level_rows else None


def curves_of(known: Sequence[tuple[Group, Recommended]], kind: str) -> list[Figure]:
    """Recall at each K, a chart a model, beside the retrained model's. kind: of `Recommended.curves`."""
    base = next((shown.curves.get(kind, []) for group, shown in known if group.role == "retrained"), [])
    end = max((math.log10(k) for _, shown in known for k, _ in shown.curves.get(kind, [])), default=0.0)
    frame = Frame(340, 220, Axis(0, end or 1, "first K of the ranking →", log=True), Axis(0, 1, "share of the items"), left=34)
    figures = []
    for group, shown in known:
        if own := shown.curves.get(kind):
            curves = [_line(base, "retrained", "retrained model")] if base and group.role != "retrained" else []
            label = f"{_CURVES[kind]}: share among the first K recommended by {group.label}"
            figures.append(Figure(group.label, lines(frame, [*curves, _line(own, f"{group.role} own", group.label)], label)))
    return figures


def _line(points: Sequence[tuple[int, float]], css: str, hover: str) -> Line:
    return Line([math.log10(k) for k, _ in points], [share for _, share in points], css, hover)

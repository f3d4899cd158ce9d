"""Vision-language models: how much each model still tells through each door to the forgotten facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter

from expunge.report.grouping import Group
from expunge.report.report_data import Entry, ReportData
from expunge.report.templates import render

NAME = "vision_language"
STYLE = """.doors td, .doors th { padding: .25rem .7rem; text-align: left; white-space: nowrap; }
.doors small { opacity: .7; font-weight: 400; }
.doors .bar { display: inline-block; height: .8rem; min-width: 2px; border-radius: 2px; vertical-align: middle; }
.doors .bar { background: var(--ink); opacity: .55; }
.doors .bar.original { background: var(--fail); } .doors .bar.retrained { background: var(--pass); }
"""
WORDS = {
    "picture": "as in the request: the picture and a question",
    "name": "the name, without a picture",
    "both": "the picture and the name",
    "other picture": "another picture of the same person",
    "caption": "a description of the picture",
    "other words": "the picture and another question",
    "noisy picture": "the picture with noise",
}
_ORDER = ("original", "method", "retrained")  # columns of the table; controls are left out
_STRICT = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class Doors:
    """The panel's data on one model. shares: by door, the share of keywords that the model says."""

    shares: dict[str, float] = field(default_factory=dict)


_ADAPTER: TypeAdapter[Doors] = TypeAdapter(Doors)


@dataclass(frozen=True)
class DoorColumn:
    """One model's column of the table."""

    label: str
    role: str
    shares: dict[str, float]


def data(doors: Doors) -> dict[str, Any]:
    """What a model tells as plain JSON data, for `Entry.panels`."""
    plain: dict[str, Any] = _ADAPTER.dump_python(doors, mode="json")
    return plain


def read(entry: Entry) -> Doors | None:
    """What a model tells; None where that is not known. Raises: pydantic.ValidationError."""
    return _ADAPTER.validate_python(entry.panels[NAME]) if NAME in entry.panels else None


def html(report_data: ReportData, rows: Sequence[Group]) -> str:
    """The section of vision-language models; '' where no model is one. Of several seeds the mean."""
    table = [column for role in _ORDER for group in rows if group.role == role if (column := column_of(group))]
    doors = [door for door in WORDS if any(door in column.shares for column in table)]
    return render("panels/vision_language.html.j2", table=table, doors=doors, words=WORDS).strip() if doors else ""


def column_of(group: Group) -> DoorColumn | None:
    """The means over the runs of a model, by door; None where it was not asked."""
    known = [shown.shares for entry in group.entries if (shown := read(entry))]
    doors = dict.fromkeys(door for shares in known for door in shares)
    means = {d: sum(s[d] for s in known if d in s) / sum(d in s for s in known) for d in doors}
    return DoorColumn(group.label, group.role, means) if means else None

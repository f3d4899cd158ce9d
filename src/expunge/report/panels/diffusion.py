"""Diffusion models: what each model draws for a few prompts, at equal seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter

from expunge.report.grouping import Group
from expunge.report.report_data import Entry, ReportData
from expunge.report.templates import render

NAME = "diffusion"
STYLE = """.drawn { margin-bottom: 1rem; }
.drawn td, .drawn th { vertical-align: middle; text-align: left; padding: .2rem .6rem; }
.drawn th[scope="row"] { font-weight: normal; max-width: 14rem; }
.drawn img { height: 56px; width: auto; image-rendering: pixelated; display: block; }
"""
_TITLES = {
    "forget": "Prompts that name what is to be forgotten",
    "prompts": "Prompts that do not name it",
    "retain": "Prompts of the pictures that are kept",
}
_ORDER = ("original", "method", "retrained")  # columns of the table; controls are left out
_STRICT = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class DrawnStrip:
    """The pictures of one prompt.

    Args:
        prompt: the prompt.
        image: the pictures side by side, of the seeds 0, 1 ..., as a PNG in a data URI.
    """

    prompt: str
    image: str

    def __post_init__(self) -> None:
        if not self.image.startswith("data:image/png;base64,"):
            raise ValueError("a picture of the report is a PNG in a data URI")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class Drawings:
    """The panel's data on one model. sets: by set, the pictures of a few prompts."""

    sets: dict[str, list[DrawnStrip]] = field(default_factory=dict)


_ADAPTER: TypeAdapter[Drawings] = TypeAdapter(Drawings)


@dataclass(frozen=True)
class PromptRow:
    """A row of the table: the pictures of one prompt by each model, None where a model was not asked."""

    prompt: str
    cells: tuple[DrawnStrip | None, ...]


@dataclass(frozen=True)
class PromptTable:
    """The table of one set."""

    name: str
    title: str
    models: tuple[str, ...]
    rows: tuple[PromptRow, ...]


def data(drawings: Drawings) -> dict[str, Any]:
    """What a model draws as plain JSON data, for `Entry.panels`."""
    plain: dict[str, Any] = _ADAPTER.dump_python(drawings, mode="json")
    return plain


def read(entry: Entry) -> Drawings | None:
    """What a model draws; None where that is not known. Raises: pydantic.ValidationError."""
    return _ADAPTER.validate_python(entry.panels[NAME]) if NAME in entry.panels else None


def html(report_data: ReportData, rows: Sequence[Group]) -> str:
    """The section of diffusion models; '' where no model is one."""
    known = [(group, drawings) for role in _ORDER for group in rows if group.role == role if (drawings := read(group.entries[0]))]
    tables = tables_of(known)
    return render("panels/diffusion.html.j2", tables=tables).strip() if tables else ""


def tables_of(known: Sequence[tuple[Group, Drawings]]) -> list[PromptTable]:
    """A table for each set: prompts down, models across; of several seeds of a method the first."""
    tables = []
    for name, title in _TITLES.items():
        by_model = [(group.label, {s.prompt: s for s in drawings.sets.get(name, [])}) for group, drawings in known]
        prompts = list(dict.fromkeys(prompt for _, strips in by_model for prompt in strips))
        prompt_rows = tuple(PromptRow(p, tuple(strips.get(p) for _, strips in by_model)) for p in prompts)
        if prompt_rows:
            tables.append(PromptTable(name, title, tuple(label for label, _ in by_model), prompt_rows))
    return tables

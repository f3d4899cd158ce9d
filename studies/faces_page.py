"""The tables of `docs/vision-language.md` on drawn faces, generated from `results/faces/`. This module measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from expunge.report.markdown import table

RESULTS = "results/faces"
PAGE = "vision-language.md"
BEGIN, END = "<!-- Made by `make docs` from results/faces/ -->", "<!-- end -->"
DOORS = {  # score -> head
    "door_picture": "picture",
    "door_name": "name",
    "door_both": "both",
    "door_other_picture": "another picture",
    "door_caption": "caption",
    "door_other_words": "other words",
    "retain_keywords": "kept people",
}
RELEARNED = {
    "relearned by picture, door_picture": "by picture: picture",
    "relearned by picture, door_name": "by picture: name",
    "relearned by name, door_picture": "by name: picture",
    "relearned by name, door_name": "by name: name",
}


def pages(root: Path) -> dict[str, str]:
    """The page with its tables renewed; nothing where it has no place for them. root: the checkout."""
    file = root / "docs" / PAGE
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if BEGIN not in text or END not in text:
        return {}
    head, rest = text.split(BEGIN, 1)
    return {PAGE: "\n".join([head + BEGIN, "", *section(root / RESULTS), "", END]) + rest.split(END, 1)[1]}


def section(folder: Path) -> list[str]:
    """The tables and what was measured. folder: with a file for each seed."""
    records: list[dict[str, Any]] = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(folder.glob("seed*.json"))]
    if not records:
        return ["Not measured yet: `python -m studies.faces`."]
    about, seeds = records[0], f"{len(records)} seed{'' if len(records) == 1 else 's'}"
    return [
        f"Drawn faces, `{about['split']}`, {about['model']}, {seeds}: shares of keywords that a model says; means, and the smallest and "
        "largest value.",
        "",
        *_table(records, DOORS),
        "",
        "After relearning a few of the facts through one door, the shares at two:",
        "",
        *_table(records, RELEARNED),
        "",
        f"`{about['command']}` measures this again and writes [results/faces](../{RESULTS}/seed0.json). The settings are the same for all "
        "methods and were not tuned.",
    ]


def _table(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    models = list(records[0]["scores"])
    rows = [[name, *(_cell([r["scores"][name] for r in records], score) for score in columns)] for name in models]
    return table(("model", *columns.values()), rows)


def _cell(of_seeds: Sequence[Mapping[str, float]], score: str) -> str:
    values = [scores[score] for scores in of_seeds if score in scores]
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{fmean(values):.2f}" + (f" ({low:.2f} to {high:.2f})" if f"{low:.2f}" != f"{high:.2f}" else "")

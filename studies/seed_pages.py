"""What sections of `docs/` have in common that are generated from a file for each seed: the place on a page, and cells of several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from expunge.report.markdown import table

Record = Mapping[str, Any]
END = "<!-- end -->"


def begin(results: str) -> str:
    """The line before a section."""
    return f"<!-- Made by `make docs` from {results}/ -->"


def renewed(root: Path, page: str, results: str, section: Callable[[Path], Sequence[str]]) -> dict[str, str]:
    """The page with its section renewed; nothing where it has no place for it.

    Args:
        root: the checkout.
        page: under `docs/`.
        results: the folder of the results, from the root.
        section: makes the lines from that folder.
    """
    file, first = root / "docs" / page, begin(results)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if first not in text or END not in text:
        return {}
    head, rest = text.split(first, 1)
    return {page: "\n".join([head + first, "", *section(root / results), "", END]) + rest.split(END, 1)[1]}


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records of all seeds."""
    return [json.loads(f.read_text(encoding="utf-8")) for f in sorted(folder.glob("seed*.json"))]


def counted(records: Sequence[Record]) -> str:
    """The number of seeds in words."""
    return f"{len(records)} seed{'' if len(records) == 1 else 's'}"


def cell(values: Sequence[float], form: str = ".2f") -> str:
    """The mean, and the smallest and largest value where they differ."""
    if not values:
        return "-"
    low, high = format(min(values), form), format(max(values), form)
    return format(fmean(values), form) + (f" ({low} to {high})" if low != high else "")


def score_table(
    records: Sequence[Record], heads: Mapping[str, str], forms: Mapping[str, str] | None = None, form: str = ".2f"
) -> list[str]:
    """A line for each model, a column for each score.

    Args:
        records: of the seeds.
        heads: by score, the head of its column.
        forms: by score, the format of its numbers where it is not `form`.
        form: that of all others.
    """
    names = list(dict.fromkeys(name for r in records for name in r["scores"]))

    def of(name: str, score: str) -> str:
        values = [float(r["scores"][name][score]) for r in records if score in r["scores"].get(name, {})]
        return cell(values, (forms or {}).get(score, form))

    return table(("model", *heads.values()), [[name, *(of(name, score) for score in heads)] for name in names])

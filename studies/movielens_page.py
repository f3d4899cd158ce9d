"""The tables of `docs/recommenders.md` on MovieLens-small, generated from `results/movielens/`. This module measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from expunge.report.markdown import table

RESULTS = "results/movielens"
PAGE = "recommenders.md"
BEGIN, END = "<!-- Made by `make docs` from results/movielens/ -->", "<!-- end -->"
COLUMNS = {  # score -> head
    "forget_recall": "forgotten, recall",
    "retain_recall": "kept, recall",
    "test_recall": "unseen, recall",
    "test_ndcg": "unseen, NDCG",
    "recommendation_gap": "distance",
    "cost": "cost",
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
    """The table and what was measured. folder: with a file for each seed."""
    records: list[dict[str, Any]] = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(folder.glob("seed*.json"))]
    if not records:
        return ["Not measured yet: `python -m studies.movielens --data ML-LATEST-SMALL`."]
    about, seeds = records[0], f"{len(records)} seed{'' if len(records) == 1 else 's'}"
    rows = [[name, *(_cell([r["scores"][name] for r in records], score) for score in COLUMNS)] for name in about["scores"]]
    return [
        f"MovieLens-small, `{about['split']}`, {about['model']}, {seeds}: means, and the smallest and largest value. Recall "
        "and NDCG at 20; the distance is the mean of those of the three recalls from the retrained model's; the cost is the share of "
        "retraining's, in pairs that are scored, those of backward passes twice.",
        "",
        *table(("model", *COLUMNS.values()), rows),
        "",
        f"`{about['command']}` measures this again and writes [results/movielens](../{RESULTS}/settings.json), with the settings, which "
        "were chosen on a seed of their own.",
    ]


def _cell(of_seeds: Sequence[Mapping[str, float]], score: str) -> str:
    values = [scores[score] for scores in of_seeds if score in scores]
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{fmean(values):.3f}" + (f" ({low:.3f} to {high:.3f})" if f"{low:.3f}" != f"{high:.3f}" else "")

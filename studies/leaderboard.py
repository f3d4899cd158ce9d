"""Leaderboards, made from committed benchmark runs: `docs/leaderboard.md` and, with a table that sorts and a plot, a page for each board.

A board is a benchmark with its split and model; runs of the same one are put together. Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.report.grouping import groups
from expunge.report.page import build
from expunge.report.report_data import Entry, ReportData, Score
from expunge.report.table import markdown

COST = "cost"
COLUMNS = {  # what a column is about, and the scores that stand for it, the first that there is
    "forgetting": ("forget_truth_ratio", "forget_accuracy", "forget_rouge"),
    "what is left": ("model_utility",),
    "what is kept": ("retain_probability", "retain_accuracy"),
    "privacy": ("mia_min_k", "mia_loss"),
    "robustness": ("worst_attack",),
    "price": (COST,),
}
QUALITY = {"forget_accuracy": "h_lr", "forget_rouge": "worst_attack"}  # what is drawn against utility, where it is not forget_quality
HEAD = "<!-- Made by `make docs` from results/; run the commands below to make these again. -->\n"


@dataclass(frozen=True)
class Board:
    """The runs of one benchmark."""

    name: str
    title: str
    commands: Sequence[str]
    entries: Sequence[Entry]

    @property
    def columns(self) -> list[str]:
        known = {n for e in self.entries for n, s in e.scores.items() if s.value is not None}
        return [found for scores in COLUMNS.values() if (found := next((n for n in scores if n in known), ""))]

    @property
    def report_data(self) -> ReportData:
        quality = next((QUALITY[n] for n in self.columns if n in QUALITY), "forget_quality")
        return ReportData(
            title=f"Leaderboard: {self.title}",
            subtitle="Means and 95 % intervals over seeds; press a heading to sort",
            models=list(self.entries),
            command="\n".join(self.commands),
            main=list(dict.fromkeys([quality, *self.columns])),
            quality=quality,
        )


def boards(results: Path) -> list[Board]:
    """All boards that the runs under a folder make, by name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(results.glob("*/bench.json")):
        run = json.loads(path.read_text())
        sweep = run["sweep"]
        found.setdefault("-".join(filter(None, (sweep["suite"], sweep["split"], sweep["model"]))), []).append(run)
    return [_board(name, runs) for name, runs in sorted(found.items())]


def _board(name: str, runs: Sequence[Mapping[str, Any]]) -> Board:
    entries = list(_entries(runs))
    kind = runs[0]["sweep"]
    title = " ".join(filter(None, (kind["suite"], kind["split"], f"with the {kind['model']} model" if kind["model"] else "")))
    return Board(name, title, [r["command"] for r in runs], entries)


def _entries(runs: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """Entries of all runs, with what each cost as a share of retraining; controls and repeated ones of the first run alone."""
    seen = set()
    for run in runs:
        entries = ReportData.from_json({"title": "run", "models": run["entries"]}).models
        whole = next((e.cost.flops for e in entries if e.role == "retrained" and e.cost and e.cost.flops), None)
        for e in entries:
            if (key := (e.role, e.label or e.method or e.name, e.seed)) in seen:
                continue
            seen.add(key)
            scores = dict(e.scores)
            if whole and e.cost and e.cost.flops is not None:
                scores[COST] = Score(e.cost.flops / whole, direction="lower", ideal=0.0, variant="operations, as a share of retraining")
            yield replace(e, scores=scores, truth_ratios=[], curves=[], receipt={})


def pages(results: Path) -> dict[str, str]:
    """Every page by its place under `docs/`."""
    found = boards(results)
    lines = [HEAD, "# Leaderboard", ""]
    if not found:
        lines += ["No benchmark run is committed yet.", ""]
    for board in found:
        methods = [g for g in groups(board.entries) if g.role == "method"]
        lines += [f"## {board.title}", ""]
        lines += [f"{len(methods)} methods beside the controls. [Sort it, and see what was lost](leaderboards/{board.name}.html).", ""]
        lines += [markdown(board.entries, board.columns), "```sh", *board.commands, "```", ""]
    if found:
        lines += [*_read(), ""]
    return {"leaderboard.md": "\n".join(lines), **{f"leaderboards/{b.name}.html": build(b.report_data) + "\n" for b in found}}


def _read() -> list[str]:
    """How to read the columns."""
    said = {
        "forgetting": "best as the retrained model's (≈): the row *retrained* is the mark",
        "what is left": "ability on everything that was not to be forgotten, over all its sets",
        "what is kept": "the same on the retain rows alone",
        "privacy": "whether an attacker tells the forgotten rows from unseen ones; best as the retrained model's",
        "robustness": "the worst case over attacks: how much more of the rows to forget comes back than from the retrained model under the "
        "same attack; 0 is best",
        "price": "floating-point operations as a share of retraining",
    }
    return ["## How to read it", "", *(f"- **{c}** (`{'`, `'.join(COLUMNS[c])}`): {text}." for c, text in said.items())]

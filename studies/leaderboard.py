"""Leaderboards from committed benchmark runs: `docs/leaderboard.md`, and for each board a page with a plot and a table that sorts.

A board is a benchmark with its split and model. It joins all runs of them. Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.evaluation.scoring import score_specs
from expunge.report.grouping import groups
from expunge.report.page import build
from expunge.report.report_data import Entry, ReportData, Score
from expunge.report.table import markdown

COST = "cost"
COLUMNS = {  # the meaning of a column, and its scores in order of preference
    "forgetting": ("forget_truth_ratio", "forget_accuracy", "forget_rouge"),
    "utility": ("model_utility",),
    "retention": ("retain_probability", "retain_accuracy"),
    "privacy": ("mia_min_k", "mia_loss"),
    "robustness": ("worst_attack",),
    "cost": (COST,),
}
QUALITY = {"forget_accuracy": "h_lr", "forget_rouge": "worst_attack"}  # the score that the plot shows instead of forget_quality
NO_UTILITY = (
    "Beyond its training rows the original of this board knows no more than random weights: their utilities are not told apart. "
    "So utility is left out, and what a method keeps is said by retention alone."
)
HEAD = "<!-- Made by `make docs` from results/; run the commands below to make these again. -->\n"


@dataclass(frozen=True)
class Board:
    """The runs of one benchmark."""

    name: str
    title: str
    commands: Sequence[str]
    entries: Sequence[Entry]

    @property
    def has_utility(self) -> bool:
        """Whether the original's utility is told from that of random weights, where both are known."""
        of_role = {e.role: s.interval for e in self.entries for n in COLUMNS["utility"] if (s := e.scores.get(n)) and s.interval}
        ours, blank = (of_role.get(role, (None, None)) for role in ("original", "random"))
        return ours[0] is None or blank[1] is None or ours[0] > blank[1]

    @property
    def columns(self) -> list[str]:
        """The first known score of each column; utility only where there is some."""
        known = {n for e in self.entries for n, s in e.scores.items() if s.value is not None}
        known -= set() if self.has_utility else set(COLUMNS["utility"])
        return [score for scores in COLUMNS.values() if (score := next((n for n in scores if n in known), ""))]

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
            utility=next((n for n in (*COLUMNS["utility"], *COLUMNS["retention"]) if n in self.columns), ""),
        )


def boards(results: Path) -> list[Board]:
    """All boards of the runs under a folder, sorted by name."""
    runs_by_board: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(results.glob("*/bench.json")):
        run = json.loads(path.read_text())
        sweep = run["sweep"]
        runs_by_board.setdefault("-".join(filter(None, (sweep["suite"], sweep["split"], sweep["model"]))), []).append(run)
    return [_board(name, runs) for name, runs in sorted(runs_by_board.items())]


def _board(name: str, runs: Sequence[Mapping[str, Any]]) -> Board:
    entries = list(_entries(runs))
    sweep = runs[0]["sweep"]
    title = " ".join(filter(None, (sweep["suite"], sweep["split"], f"with the {sweep['model']} model" if sweep["model"] else "")))
    return Board(name, title, [r["command"] for r in runs], entries)


def _entries(runs: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """Entries of all runs, with their costs as shares of retraining. Controls and repeated entries come from the first run."""
    keys = set()
    for run in runs:
        entries = ReportData.from_json({"title": "run", "models": run["entries"]}).models
        baseline = next((e.cost.flops for e in entries if e.role == "retrained" and e.cost and e.cost.flops), None)
        for e in entries:
            if (key := (e.role, e.label or e.method or e.name, e.seed)) in keys:
                continue
            keys.add(key)
            scores = {n: replace(s, **_described(n, next(iter(e.panels), ""))) for n, s in e.scores.items()}
            if baseline and e.cost and e.cost.flops is not None:
                scores[COST] = Score(e.cost.flops / baseline, direction="lower", ideal=0.0, variant="operations, as a share of retraining")
            yield replace(e, scores=scores, panels={}, curves=[], receipt={})


def _described(name: str, modality: str) -> dict[str, Any]:
    """Kind and meaning of a score, as its family declares them. A score without a family has none."""
    spec = score_specs(modality).get(name)
    return {"kind": spec.kind, "meaning": spec.meaning, "shows": spec.shows} if spec else {}


def pages(results: Path) -> dict[str, str]:
    """All pages: their texts by path under `docs/`."""
    all_boards = boards(results)
    lines = [HEAD, "# Leaderboard", ""]
    if not all_boards:
        lines += ["No benchmark run is committed yet.", ""]
    for board in all_boards:
        methods = [g for g in groups(board.entries) if g.role == "method"]
        lines += [f"## {board.title}", ""]
        lines += [f"{len(methods)} methods beside the controls. [Table that sorts, and plot](leaderboards/{board.name}.html).", ""]
        lines += [] if board.has_utility else [NO_UTILITY, ""]
        lines += [markdown(board.entries, board.columns), "```sh", *board.commands, "```", ""]
    if all_boards:
        lines += [*_legend(), ""]
    return {"leaderboard.md": "\n".join(lines), **{f"leaderboards/{b.name}.html": build(b.report_data) + "\n" for b in all_boards}}


def _legend() -> list[str]:
    """How to read the columns."""
    meanings = {
        "forgetting": "best at the value of the retrained model (≈), in the row *retrained*",
        "utility": "ability on everything else, over all sets",
        "retention": "ability on the retain rows",
        "privacy": "whether an attacker can tell the forgotten rows from unseen ones; best at the value of the retrained model",
        "robustness": "the worst case over attacks: how much more of the forget rows comes back than from the retrained model under the "
        "same attack; 0 is best",
        "cost": "floating-point operations as a share of retraining",
    }
    return ["## How to read it", "", *(f"- **{c}** (`{'`, `'.join(COLUMNS[c])}`): {text}." for c, text in meanings.items())]

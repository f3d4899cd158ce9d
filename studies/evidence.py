"""The page of all effects: one line a system, and a picture of effects with their intervals, from `results/proofs`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from expunge.report.markdown import prose, table

PROOFS = "results/proofs"  # NAME.json: what `python -m studies.reproduce NAME --update` decided
VERDICTS = {
    "shown": "the interval lies above 0, and the mean effect is at least what matters",
    "not shown": "the interval lies below what matters",
    "undecided": "the interval holds both no effect and one that matters, so that more originals could decide",
    "case invalid": "a condition of the case does not hold, so it says nothing about the method",
}
LIMIT = 50.0  # effects beyond so many times what matters are drawn at the edge
TICKS = (-LIMIT, -10.0, -1.0, 0.0, 1.0, 10.0, LIMIT)
COLORS = {"shown": "#1a7f37", "not shown": "#c0392b", "undecided": "#9a6700", "case invalid": "#6e7781"}
LEFT, RIGHT, ROW, TOP = 190, 640, 22, 46  # places in the picture, in pixels
Record = Mapping[str, Any]


def records(root: Path) -> dict[str, Record]:
    """All committed proofs by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / PROOFS).glob("*.json"))}


def pages(root: Path, kinds: Mapping[str, str], others: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The page and its picture, by path under `docs/`.

    Args:
        root: of the checkout.
        kinds: of all systems, as the catalog names them.
        others: systems whose effect was measured on a single case, before the protocol: role, and outcome in words.
    """
    known = records(root)
    if not known:
        return {}
    counts = Counter(record["verdict"] for record in known.values())
    tally = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
    older = [[link(name, kinds), role, outcome] for name, (role, outcome) in sorted(others.items()) if name not in known]
    rows = [line(link(name, kinds), name, record) for name, record in known.items()]
    lines = [
        "<!-- Made by `make docs` from results/proofs. -->",
        "# Evidence",
        "",
        f"What the papers claim, measured by one protocol on models that fit a laptop: {tally}.",
        "",
        "Each line is a claim of the method's paper. Method and rivals start from the same originals (5 on each of 3 draws of the data), "
        "are tuned with about as many settings on other draws, and are compared with each other original by original, for language "
        "models where each has forgotten as far as the retrained model. Effects are differences in the score, positive where the method is "
        "better than its hardest rival, with the 95 % interval over originals. The cost is a share of retraining.",
        "",
        *(f"- *{verdict}*: {meaning}." for verdict, meaning in VERDICTS.items()),
        "",
        "![Effects of all systems with their intervals](evidence.svg)",
        "",
        *table(("system", "claim", "paper", "effect", "verdict", "cost"), rows),
        "",
        "`make reproduce NAME=npo` measures a line again; with `DRAWS=1` it is a quick look that says it is one.",
        "",
    ]
    if older:
        lines += [
            "## Measured once",
            "",
            "These were measured on a single case each, with one original, before the protocol; one seed may have decided.",
            "",
            *table(("system", "kind", "outcome"), older),
            "",
        ]
    return {"evidence.md": "\n".join(lines), "evidence.svg": picture(known)}


def link(name: str, kinds: Mapping[str, str]) -> str:
    """A link to the page of a system."""
    return f"[{name}]({kinds[name]}/{name}.md)"


def line(linked: str, name: str, record: Record) -> list[str]:
    """A row of the table: the claim that decides."""
    claim = record["claims"][0]
    verdict = record["verdict"]
    if verdict == "case invalid":
        verdict += ": not so that " + "; ".join(f"{g['gate']} ({g['value']:.3g})" for g in claim["gates"] if not g["holds"])
    cost = f"{100 * record['cost'][name]:.1f} %"
    return [linked, prose(claim["claim"]), prose(claim["source"]), in_words(claim), verdict, cost]


def in_words(claim: Mapping[str, Any]) -> str:
    """An effect with its interval, its score and the rival."""
    if "effect" not in claim:
        return "-"
    effect, margin = claim["effect"], claim.get("margin")
    ends = f"where {margin:g} worse is 0 and counts as equal" if margin else f"{claim['matters']:g} matters"
    return f"{effect['mean']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}] in `{claim['score']}` over {effect['rival']}; {ends}"


def picture(known: Mapping[str, Record]) -> str:
    """A forest plot: each effect and its interval in units of the smallest effect that matters."""
    rows = [(name, r["verdict"], r["claims"][0]) for name, r in known.items() if "effect" in r["claims"][0]]
    rows.sort(key=lambda row: (list(VERDICTS).index(row[1]), row[0]))
    height, width = TOP + ROW * len(rows) + 40, RIGHT + 120
    base = TOP + ROW * len(rows)
    marks = ((0.0, "no effect"), (1.0, "matters"))
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">',
        "<title>Effects of all systems with their intervals</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" fill="#24292f">effect and 95 % interval, in units of the smallest effect that matters</text>',
    ]
    for value, label in marks:
        x = place(value)
        drawn.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{base}" stroke="#8c959f" stroke-dasharray="3 3"/>')
        anchor = "end" if value == 0 else "start"
        drawn.append(f'<text x="{x + (-4 if value == 0 else 4):.1f}" y="{TOP - 10}" fill="#57606a" text-anchor="{anchor}">{label}</text>')
    for k, (name, verdict, claim) in enumerate(rows):
        drawn += row_of(
            TOP + ROW * k + ROW // 2, name, verdict, [claim["effect"][n] / (claim["matters"] or 1.0) for n in ("low", "mean", "high")]
        )
    for value in TICKS:
        edge = " or beyond" if abs(value) == LIMIT else ""
        drawn.append(f'<text x="{place(value):.1f}" y="{base + 20}" fill="#57606a" text-anchor="middle">{value:g}{edge}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def row_of(y: int, name: str, verdict: str, values: Sequence[float]) -> list[str]:
    """The interval, the mean and the names of one system."""
    low, mean, high = (place(v) for v in values)
    color = COLORS[verdict]
    return [
        f'<text x="{LEFT - 30}" y="{y + 4}" fill="#24292f" text-anchor="end">{escape(name)}</text>',
        f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{color}" stroke-width="2"/>',
        f'<circle cx="{mean:.1f}" cy="{y}" r="4" fill="{color}"/>',
        f'<text x="{RIGHT + 20}" y="{y + 4}" fill="{color}">{verdict}</text>',
    ]


def place(value: float) -> float:
    """The place of a value on the axis, in pixels. The axis is linear near 0 and logarithmic far from it."""
    share = math.asinh(min(max(value, -LIMIT), LIMIT)) / math.asinh(LIMIT)
    return LEFT + (share + 1) / 2 * (RIGHT - LEFT)

"""The page "Which audit to trust" and its picture, from `results/meta/scores.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from expunge.report.markdown import table

SCORES = "results/meta/scores.json"
COLUMNS = {
    "faithful": "tells knowing models from others",
    "changed": "also after training further, rounding, a filter",
    "relearned": "survives relearning",
    "rounded": "survives 4 bits",
    "reworded": "survives other words",
    "trust": "trust",
}
COLORS = {"knowledge": "#0969da", "membership": "#8250df", "features": "#bf3989", "attack": "#9a6700", "verdict": "#1a7f37"}
LEFT, RIGHT, ROW, TOP = 250, 660, 22, 46  # places in the picture, in pixels
Record = Mapping[str, Any]


def pages(root: Path) -> dict[str, str]:
    """The page and its picture, by path under `docs/`; nothing where nothing is measured."""
    if not (root / SCORES).exists():
        return {}
    record = json.loads((root / SCORES).read_text(encoding="utf-8"))
    return {"which-audit-to-trust.md": page(record), "which-audit-to-trust.svg": picture(record["scores"])}


def page(record: Record) -> str:
    """The page, in plain words."""
    entries = record["scores"]
    best = [plain(e["name"]) for e in ranked(entries) if e["kind"] in ("knowledge", "membership")][:3]
    pools = record["pools"]
    lines = [
        "<!-- Made by `make docs` from results/meta/scores.json. -->",
        "# Which audit to trust",
        "",
        f"An audit can be wrong, too. So {record['models']} small language models of known state were made. {pools['knows']} know the rows "
        "to forget, because they were trained on them (word for word, in other words, among other people; some were then trained further, "
        f"rounded, or put behind a filter), and {pools['does not']} do not (they were trained on the other rows, on wrong answers about "
        "the same people, on other people). The rest were unlearned by six methods, then trained again on a few rows that no audit reads, "
        "rounded to 4 bits, and asked in other words. Every score and attack that applies looked at them.",
        "",
        "Two things make a score worth trusting, after the meta-evaluation of OpenUnlearning (arXiv 2506.12618), whose formulas are "
        "reconstructed from its description:",
        "",
        "- *It tells models that know from models that do not.* The number is the chance that a model that knows scores higher than one "
        "that does not: 1 is always, 0.5 is a coin.",
        "- *What it says of an unlearned model survives.* If the score says that the knowledge is gone, and a little training, rounding or "
        "another wording brings it up, it was not gone. 1: nothing comes up that does not come up in a model that never knew. "
        f"{record['useful']} of {record['unlearned']} unlearned models still had four fifths of their utility and count here.",
        "",
        "*Trust* is the harmonic mean of both. Intervals (95 %) are over models. The scores that can be trusted the most here are "
        f"{', '.join(best[:-1])} and {best[-1]}.",
        "",
        "![Trust in each score and attack, with its interval](which-audit-to-trust.svg)",
        "",
        "## Scores",
        "",
        *of_kinds(entries, ("knowledge", "membership", "features")),
        "",
        "## Attacks and the verdict",
        "",
        "An attack counts by its worst case, as an audit reads it. Attacks and the verdict were not asked in other words, so their trust "
        "does not compare with that of scores. An attack whose means a model of this size lacks (a chat template, knowledge that spreads "
        "to other questions) shows here what it shows of such a model.",
        "",
        *of_kinds(entries, ("attack", "verdict")),
        "",
        "## Do the defaults follow this?",
        "",
        *follow(record["defaults"]),
        "",
        f"These are models of a few hundred thousand weights on invented people, audited on {record['rows']['forget']} rows: the ranking "
        "says what to look at first, not how large a number is on a large model. `python -m studies.meta_evaluation` measures it again; "
        "[every model](../results/meta/models.json), [every number](../results/meta/scores.json).",
        "",
    ]
    return "\n".join(lines)


def ranked(entries: Sequence[Record]) -> list[Record]:
    """Entries that have a trust, the highest first."""
    return [e for e in entries if "trust" in e]


def plain(name: str) -> str:
    """A name for people."""
    return name.removeprefix("attack ").replace("_", " ")


def of_kinds(entries: Sequence[Record], kinds: Sequence[str]) -> list[str]:
    """The table of some kinds, the most trusted first."""
    rows = [
        [f"**{plain(e['name'])}**" if e["decides"] else plain(e["name"]), e["kind"], *(in_words(e, part) for part in COLUMNS)]
        for e in entries
        if e["kind"] in kinds
    ]
    return list(table(("bold: decides the verdict", "kind", *COLUMNS.values()), rows))


def in_words(entry: Record, part: str) -> str:
    """A number with its interval, where it has one."""
    if part not in entry:
        return "-"
    rating = entry[part]
    return (
        f"{rating['value']:.2f} [{rating['low']:.2f}, {rating['high']:.2f}]" if part in ("faithful", "trust") else f"{rating['value']:.2f}"
    )


def follow(defaults: Sequence[Record]) -> list[str]:
    """One line for each score that decides, and what follows."""
    lines = []
    for known in defaults:
        if not known["rival"]:
            lines.append(f"- **{plain(known['name'])}** decides; there is no other check of its kind that does not.")
            continue
        gap = known["difference"]
        word = "clearly worse than" if known["clearly_worse"] else "no worse than" if gap["value"] >= 0 else "not clearly worse than"
        lines.append(
            f"- **{plain(known['name'])}** decides; it is {word} {plain(known['rival'])}, the best of its kind that does not decide "
            f"(difference {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}])."
        )
    worse = [plain(k["name"]) for k in defaults if k.get("clearly_worse")]
    if worse:
        lines += ["", f"The defaults do not follow the ranking: {', '.join(worse)} should not decide before a better score does."]
    elif defaults:
        lines += ["", "So the defaults follow the ranking: no score that decides is clearly worse than one that does not."]
    return lines


def picture(entries: Sequence[Record]) -> str:
    """Trust of each score and attack with its interval, from 0 to 1, the highest first."""
    shown = ranked(entries)
    height, base = TOP + ROW * len(shown) + 40, TOP + ROW * len(shown)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT + 120} {height}" font-family="sans-serif" font-size="12" role="img">',
        "<title>Trust in each score and attack, with its interval</title>",
        f'<rect width="{RIGHT + 120}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" fill="#24292f">trust and 95 % interval: 1 is always right, whatever is done to the model</text>',
    ]
    for k in range(5):
        x = place(k / 4)
        drawn.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{base}" stroke="#d0d7de"/>')
        drawn.append(f'<text x="{x:.1f}" y="{base + 20}" fill="#57606a" text-anchor="middle">{k / 4:g}</text>')
    for k, entry in enumerate(shown):
        y, color, trust = TOP + ROW * k + ROW // 2, COLORS[entry["kind"]], entry["trust"]
        weight = ' font-weight="bold"' if entry["decides"] else ""
        drawn += [
            f'<text x="{LEFT - 14}" y="{y + 4}" fill="#24292f" text-anchor="end"{weight}>{escape(plain(entry["name"]))}</text>',
            f'<line x1="{place(trust["low"]):.1f}" y1="{y}" x2="{place(trust["high"]):.1f}" y2="{y}" stroke="{color}" stroke-width="2"/>',
            f'<circle cx="{place(trust["value"]):.1f}" cy="{y}" r="4" fill="{color}"/>',
            f'<text x="{RIGHT + 20}" y="{y + 4}" fill="{color}">{entry["kind"]}</text>',
        ]
    return "\n".join([*drawn, "</svg>", ""])


def place(value: float) -> float:
    """The place of a value from 0 to 1, in pixels."""
    return LEFT + min(max(value, 0.0), 1.0) * (RIGHT - LEFT)

"""The tables of results in notebooks and as data frames. They hold numbers, names and counts, and never a row or a text of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError
from expunge.report.frames import bounds, frame
from expunge.report.notebook import table
from expunge.report.report_data import Entry
from expunge.report.verdict_data import STATES, Verdict
from expunge.report.words import duration, number, span

if TYPE_CHECKING:
    from pandas import DataFrame

VALUES = ("value", "low", "high", "n", "retrained")
SCORE = ("score", *VALUES, "direction", "ideal", "kind", "variant", "meaning", "missing")
ATTACK = ("attack", "way", "score", "before", *VALUES, "mean", "case", "missing")
ENTRY = ("name", "role", "method", "seed", "score", "value", "low", "high", "n", "direction", "ideal", "missing", "seconds")

Record = Mapping[str, Any]


def audit_frame(scores: Mapping[str, Record], skipped: Mapping[str, str], attacks: Mapping[str, Record], of: str) -> DataFrame:
    """The scores of an audit, or the worst cases of its attacks. Raises: UserError where there is no pandas, or no such table."""
    if of == "scores":
        known = [{**r, **bounds(r["interval"]), "score": name} for name, r in scores.items()]
        return frame([*known, *({"score": name, "missing": why} for name, why in skipped.items())], SCORE)
    if of != "attacks":
        raise UserError(f"there is no table of {of!r}: give scores or attacks")
    rows: list[dict[str, Any]] = []
    for attack, outcome in attacks.items():
        ways = [(way, score, r) for way, worst in outcome["ways"].items() for score, r in worst.items()]
        rows += [{**r, **bounds(r["interval"]), "attack": attack, "way": way, "score": score} for way, score, r in ways]
        rows += [{"attack": attack, "way": way, "missing": why} for way, why in outcome["missing"].items()]
    return frame(rows, ATTACK)


def audit_numbers(scores: Mapping[str, Record], attacks: Mapping[str, Record], verdict: Verdict) -> dict[str, Any]:
    """The numbers of an audit: values of the scores, of each attack's worst cases, the state of the verdict, and its checks by state."""
    worst = {n: {way: {s: r["value"] for s, r in rs.items()} for way, rs in outcome["ways"].items()} for n, outcome in attacks.items()}
    return {"scores": {n: r["value"] for n, r in scores.items()}, "attacks": worst, **_judged(verdict)}


def entry_numbers(entry: Entry) -> dict[str, Any]:
    """The same numbers of a model of a benchmark; state and checks only where it was judged."""
    worst: dict[str, dict[str, dict[str, float | None]]] = {}
    for attack in entry.attacks:
        worst.setdefault(attack.attack, {})[attack.way] = {name: after.value for name, after in attack.scores.items()}
    scores = {name: score.value for name, score in entry.scores.items() if score.value is not None}
    return {"scores": scores, "attacks": worst, **(_judged(entry.verdict) if entry.verdict else {})}


def _judged(verdict: Verdict) -> dict[str, Any]:
    checks = {state: count for state in STATES if (count := sum(check.state == state for check in verdict.checks))}
    return {"state": verdict.state, "checks": checks}


def audit_html(scores: Mapping[str, Record], skipped: Mapping[str, str], verdict: Verdict, first: Sequence[str] = ()) -> str:
    """The scores of an audit. first: names of the scores that stand above the others."""
    names = [n for n in dict.fromkeys((*first, *scores)) if n in scores]
    rows = [
        [n, number(scores[n]["value"]), span(*scores[n]["interval"]), str(scores[n]["n"]), number(scores[n]["retrained"])] for n in names
    ]
    notes = [f"verdict: {verdict.state}", *([f"{len(skipped)} scores are missing"] if skipped else [])]
    return table("Audit", ("score", "value", "95 % interval", "n", "retrained model"), rows, notes)


def entries_frame(entries: Sequence[Entry]) -> DataFrame:
    """A row for each model and score of a benchmark. Raises: UserError where pandas is not installed."""
    return frame(
        (
            {
                **{field: getattr(entry, field) for field in ("name", "role", "method", "seed")},
                **{field: getattr(score, field) for field in ("value", "n", "direction", "ideal", "missing")},
                **bounds(score.interval),
                "score": name,
                "seconds": entry.cost.seconds if entry.cost else None,
            }
            for entry in entries
            for name, score in entry.scores.items()
        ),
        ENTRY,
    )


def entries_html(entries: Sequence[Entry], main: Sequence[str]) -> str:
    """The short table of a benchmark. main: names of its scores, in order."""
    shown = [n for n in main if any(n in entry.scores for entry in entries)]
    rows = [[e.name, *(number(e.scores[n].value if n in e.scores else None) for n in shown)] for e in entries]
    return table("Benchmark", ("model", *shown), rows, [f"{len(entries)} models"])


def receipt_html(receipt: Record) -> str:
    """What a run did, from its receipt."""
    cost, sets = receipt["cost"], receipt["request"]["sets"]
    facts = {
        "result": receipt["result"]["kind"],
        "weights changed": "yes" if receipt["result"]["changed"] else "no",
        **{f"rows of {name}": f"{rows:,}" for name, rows in sets.items()},
        "steps": f"{cost['steps']:,}",
        "time": duration(cost["seconds"]),
        "seed": str(receipt["seed"]),
        "warnings": str(len(receipt["warnings"]) + len(receipt["request"]["findings"])),
    }
    return table(str(receipt["method"]), ("", ""), list(facts.items()))

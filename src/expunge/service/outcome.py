"""What an audit found, without a word of any row: what the ledger and certificates may keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from expunge.evaluation.profiles.profile import profile_of
from expunge.workflows.audit import Audit

CHECK = ("name", "state", "decides", "score", "value", "yardstick", "against", "margin", "effect", "interval", "p", "n", "power")
RECOVERY = ("attack", "state", "score", "before", "after", "retrained", "works", "steps", "rows", "queries")
WORDS = 4  # of an answer that nobody guesses word for word
KNOWN = 0.5  # of a score of the original, from which on it knew something that could go
SCORE = ("value", "interval", "n", "direction", "ideal", "variant", "kind")


def outcome_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of an audit as plain JSON: texts of rows, of answers and of leaks are left out, and counted.

    Args:
        record: what audit.json holds.

    Returns:
        `state`, `leaks` (in how many rows, and in how many beyond any guess), `checks` and `attacks` with failures first, `scores`,
        `damage`, `not_checked`, `skipped` (scores that could not be computed, with the reason), `thresholds`, `controls` and `weights`.
    """
    verdict = record["verdict"]
    leaks = verdict["leaks"]
    return {
        "state": verdict["state"],
        "leaks": {"rows": len({leak["row"] for leak in leaks}), "proof": len({leak["row"] for leak in leaks if leak["proof"]})},
        "checks": [_only(check, CHECK) for check in verdict["checks"]],
        "attacks": [_only(recovery, RECOVERY) for recovery in verdict["brings_back"]],
        "scores": {name: _only(score, SCORE) for name, score in record["scores"].items()},
        "damage": list(verdict["damage"]),
        "not_checked": list(verdict["not_checked"]),
        "skipped": dict(record["skipped"]),
        "thresholds": finite(verdict["thresholds"]),
        "controls": dict(record["controls"]),
        "weights": str(record["observed"].get("weights", "")),
    }


def still_answered(record: Mapping[str, Any]) -> int:
    """How many rows the model still answers with the whole forgotten answer, of several words.

    A few rows can never decide a verdict, since each may be a guess; a model that says such an answer must not be served as one without it.

    Args:
        record: what audit.json holds.
    """
    leaks = record["verdict"]["leaks"]
    return len({leak["row"] for leak in leaks if leak["kind"] == "answer" and len(str(leak["answer"]).split()) >= WORDS})


def unmoved(outcome: Mapping[str, Any]) -> bool:
    """Whether the rows are as known as they were: the original knew them, and every check against it lies within its margin.

    Such a run did nothing, though too few rows may keep its verdict from saying so.

    Args:
        outcome: of `outcome_of`.
    """
    beside = [
        c for c in outcome["checks"] if c.get("decides") and c.get("against") == "original" and None not in (c["effect"], c["margin"])
    ]
    return any(c["yardstick"] >= KNOWN for c in beside) and all(abs(c["effect"]) <= c["margin"] for c in beside)


def utility_of(audit: Audit, known: Mapping[str, float] = {}) -> tuple[str, float, float] | None:
    """The score that says what the model is still good for, of the audited model and of the original.

    Args:
        audit: of the model.
        known: what an earlier audit measured of the original, by score, where this one has no original.

    Returns:
        Its name and the two values; None where either was not measured.
    """
    original = next((m.scores for m in audit.models if m.role == "original"), {})
    before = {**known, **{name: float(score["value"]) for name, score in original.items()}}
    scores = {n: s for n, s in audit.scores.items() if s["kind"] == "utility" and s["direction"] == "higher"}
    preferred = profile_of(audit.observed.modality).utility
    name = preferred if preferred in scores else next(iter(scores), "")
    return (name, float(scores[name]["value"]), before[name]) if name in before else None


def _only(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: finite(values[name]) for name in names if name in values}


def finite(value: Any) -> Any:
    """The value as strict JSON: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)

"""Scores over a sequence of requests, from the audit after each: the workflow behind `expunge sequence`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.evaluation.metrics.deviation import SCORE, of_requests
from expunge.evaluation.profiles.profile import profile_of


def sequence(audits: Sequence[str | Path], *, utility: str = "", beta: float = 0.5) -> dict[str, Any]:
    """Dynamic deviation (DDS, 0 is best) and dynamic utility (DUS, 1 is best) of requests that came one after the other.

    Args:
        audits: folders of audits, one after each request, in the order of the requests.
        utility: name of the score that measures utility; '': that of the modality, or the first score of utility that all audits have.
        beta: weight of the mean rise of the deviation.

    Returns:
        `dynamic_deviation_score` and `dynamic_utility_score`, the values of `deviation` and `utility` after each request, the `scores` that
        these are, by name, and beta.

    Raises:
        UserError: for fewer than two audits, a folder that holds none, and audits that lack a score.
    """
    if len(audits) < 2:
        raise UserError("a sequence has at least two requests: give the folders of the audits after each, in their order")
    records = [_record(Path(audit).expanduser()) for audit in audits]
    scores = [record["scores"] for record in records]
    chosen = utility or _utility(records)
    for audit, own in zip(audits, scores, strict=True):
        for name in (SCORE, chosen):
            if not _has(own, name):
                raise UserError(f"the audit in {audit} has no {name}: it needs generated answers to the sets forget and retain (--retain)")
    return {
        **of_requests(scores, chosen, beta),
        "scores": {"deviation": SCORE, "utility": chosen},
        "beta": beta,
        "requests": [
            {"audit": str(a), "deviation": float(own[SCORE]["value"]), "utility": float(own[chosen]["value"])}
            for a, own in zip(audits, scores, strict=True)
        ],
    }


def _utility(records: Sequence[Mapping[str, Any]]) -> str:
    """The score of utility of the modality, or the first one that all audits have. Raises: UserError where there is none."""
    modality = records[0].get("observed", {}).get("modality", {}).get("modality", "")
    shared = [
        name
        for name, record in records[0]["scores"].items()
        if (record.get("kind"), record.get("direction")) == ("utility", "higher") and all(_has(r["scores"], name) for r in records)
    ]
    if not shared:
        raise UserError("no score of utility stands in all of these audits: audit with rows to retain (--retain)")
    usual = profile_of(modality).utility
    return usual if usual in shared else shared[0]


def _has(record: Mapping[str, Any], name: str) -> bool:
    return record.get(name, {}).get("value") is not None


def _record(folder: Path) -> Mapping[str, Any]:
    """An audit as its file has it. Raises: UserError where the folder holds none."""
    try:
        record: Mapping[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        record["scores"].items()
    except FileNotFoundError:
        raise UserError(f"{folder} holds no audit: there is no audit.json in it") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"the audit in {folder} cannot be read: {type(error).__name__}: make it again") from None
    return record

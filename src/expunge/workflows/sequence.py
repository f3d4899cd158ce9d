"""Scores over a sequence of requests, from the audit after each: the workflow behind `expunge sequence`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.evaluation.metrics.deviation import of_requests

UTILITIES = ("model_utility", "retain_rouge")  # scores of utility, the first that all audits have


def sequence(audits: Sequence[str | Path], *, utility: str = "", beta: float = 0.5) -> dict[str, Any]:
    """Dynamic deviation (DDS, 0 is best) and dynamic utility (DUS, 1 is best) of requests that came one after the other.

    Args:
        audits: folders of audits, one after each request, in the order of the requests.
        utility: name of the score that measures utility; '': `model_utility`, or `retain_rouge` where an audit lacks it.
        beta: weight of the mean rise of the deviation.

    Returns:
        `dynamic_deviation_score` and `dynamic_utility_score`, with the deviation and the utility after each request, the name of the score
        that counts as utility, and beta.

    Raises:
        UserError: for fewer than two audits, a folder that holds none, and audits that lack a score.
    """
    if len(audits) < 2:
        raise UserError("a sequence has at least two requests: give the folders of the audits after each, in their order")
    records = [_scores(Path(audit).expanduser()) for audit in audits]
    chosen = utility or next((n for n in UTILITIES if all(_has(r, n) for r in records)), UTILITIES[0])
    for audit, record in zip(audits, records, strict=True):
        for name in ("deviation_score", chosen):
            if not _has(record, name):
                raise UserError(f"the audit in {audit} has no {name}: it needs generated answers to the sets forget and retain (--retain)")
    return {
        **of_requests(records, chosen, beta),
        "utility": chosen,
        "beta": beta,
        "requests": [
            {"audit": str(a), "deviation_score": float(r["deviation_score"]["value"]), chosen: float(r[chosen]["value"])}
            for a, r in zip(audits, records, strict=True)
        ],
    }


def _has(record: Mapping[str, Any], name: str) -> bool:
    return record.get(name, {}).get("value") is not None


def _scores(folder: Path) -> Mapping[str, Any]:
    """The scores of an audit. Raises: UserError where the folder holds none."""
    try:
        scores: Mapping[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["scores"]
    except FileNotFoundError:
        raise UserError(f"{folder} holds no audit: there is no audit.json in it") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"the audit in {folder} cannot be read: {type(error).__name__}: make it again") from None
    return scores

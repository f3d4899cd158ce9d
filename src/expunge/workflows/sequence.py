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
        utility: name of the score that measures utility; '': that of the profile of language models, or where an audit lacks it, the
            first of the profile's headline that measures utility.
        beta: weight of the mean rise of the deviation.

    Returns:
        `dynamic_deviation_score` and `dynamic_utility_score`, the name of the score that counts as `utility`, beta, and for each of the
        `requests` its `audit`, `deviation` in percent and `utility`.

    Raises:
        UserError: for fewer than two audits, a folder that holds none, and audits that lack a score.
    """
    if len(audits) < 2:
        raise UserError("a sequence has at least two requests: give the folders of the audits after each, in their order")
    records = [_scores(Path(audit).expanduser()) for audit in audits]
    profile = profile_of("text")
    chosen = utility or next(
        (n for n in (profile.utility, *profile.headline) if all(_has(r, n) and r[n].get("kind") == "utility" for r in records)),
        profile.utility,
    )
    for audit, record in zip(audits, records, strict=True):
        for name in (SCORE, chosen):
            if not _has(record, name):
                raise UserError(f"the audit in {audit} has no {name}: it needs generated answers to the sets forget and retain (--retain)")
    return {
        **of_requests(records, chosen, beta),
        "utility": chosen,
        "beta": beta,
        "requests": [
            {"audit": str(a), "deviation": float(r[SCORE]["value"]), "utility": float(r[chosen]["value"])}
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

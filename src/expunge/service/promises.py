"""What a request asks a removal to be, and what a run is: measured, certified or exact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.methods.stores import LEVELS

MOTIVES = ("privacy", "copyright", "safety", "accuracy", "poisoning", "other")
GUARANTEES: Mapping[str, str] = {  # from the weakest to the strongest
    "measured": "an audit measures what is still known",
    "certified": "no test tells the model from one trained without the rows better than stated numbers allow",
    "exact": "the model is one trained without the rows",
}
ORDER = tuple(GUARANTEES)
STRENGTH = {"E0": "exact", "E1": "exact", "C": "certified"} | dict.fromkeys(set(LEVELS) - {"E0", "E1", "C"}, "measured")
RETRAIN = "retrain"


def checked(motive: str, guarantee: str) -> None:
    """Raises: UserError for a motive or a guarantee that nobody knows; '' is none."""
    for what, word, known in (("motive", motive, MOTIVES), ("guarantee", guarantee, ORDER)):
        if word and word not in known:
            raise UserError(f"there is no {what} {word!r}{did_you_mean(word, known)}; there are {', '.join(known)}")


def promise_of(run: Path, method: str) -> str:
    """What the run in a folder promises of its model. method: by which it was made."""
    if method == RETRAIN:
        return "exact"
    path = run / "receipt.json"
    receipt = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    level = (receipt.get("result", {}).get("guarantee") or {}).get("level", "H")
    return STRENGTH.get(level, "measured")


def weaker(requests: Sequence[Mapping[str, Any]], promise: str) -> list[str]:
    """A sentence for each request that asks for more than a promise."""
    return [
        f"request {row['id']} asks that the removal be {row['guarantee']}, and this run is {promise}: {GUARANTEES[promise]}"
        for row in requests
        if row["guarantee"] and ORDER.index(row["guarantee"]) > ORDER.index(promise)
    ]

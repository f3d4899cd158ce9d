"""Hyperparameters that fit the small built-in models, by benchmark and size; papers' defaults are for models a thousand times larger.

`people-micro.json` and its like map a method to its hyperparameters, chosen on another split than the one that is reported (see `tuning` in each).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _file(suite: str, size: str) -> dict[str, Any]:
    path = Path(__file__).parent / f"{suite}-{size}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def hyperparameters(suite: str, size: str, method: str) -> dict[str, Any]:
    """The hyperparameters of a method for a case, empty where the paper's own are to be used."""
    return dict(_file(suite, size).get("methods", {}).get(method, {}))


def relearning(suite: str, size: str, items: int) -> dict[str, Any]:
    """How a model of a case is attacked by relearning: on a quarter of the forget rows, with the case's rate and steps."""
    return {"k": max(2, items // 4), **_file(suite, size).get("relearn", {})}


def attacking(attack: str, suite: str, size: str, items: int) -> dict[str, Any]:
    """The hyperparameters of an attack on a model of a case: those that train have its rate and its steps."""
    relearn = relearning(suite, size, items)
    if attack == "relearn":
        return relearn
    if attack != "relearn_grid" or "steps" not in relearn:
        return {}
    k, n = ([max(1, relearn[key] // part) for part in (4, 2, 1)] for key in ("k", "steps"))
    return {"lr": relearn["lr"], "batch_size": relearn["batch_size"], "k": k, "n": n}

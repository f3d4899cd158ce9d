"""Hyperparameters for the small built-in models, by benchmark and size; the defaults of papers are for models a thousand times larger.

Each file, such as `people-micro.json`, maps methods to hyperparameters; of a model in a folder or on the hub, the last part of its name
counts. Those of small models were chosen on another split than the reported one;
`studies/tuning` holds all settings that were tried.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _file(suite: str, size: str) -> dict[str, Any]:
    path = Path(__file__).parent / f"{suite}-{Path(size).name}.json"
    presets: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return presets


def hyperparameters(suite: str, size: str, method: str) -> dict[str, Any]:
    """The hyperparameters of a method for a benchmark and a model size; empty means the defaults of the paper."""
    return dict(_file(suite, size).get("methods", {}).get(method, {}))


def relearning(suite: str, size: str, items: int) -> dict[str, Any]:
    """The hyperparameters of the relearning attack: a quarter of the `items` forget rows, and the settings of the preset."""
    return {"k": max(2, items // 4), **_file(suite, size).get("relearn", {})}


def attacking(attack: str, suite: str, size: str, items: int) -> dict[str, Any]:
    """The hyperparameters of an attack; attacks that train use the learning rate and the steps of the preset."""
    relearn = relearning(suite, size, items)
    if attack == "relearn":
        return relearn
    if attack != "relearn_grid" or "steps" not in relearn:
        return {}
    k, n = ([max(1, relearn[key] // part) for part in (4, 2, 1)] for key in ("k", "steps"))
    return {"lr": relearn["lr"], "batch_size": relearn["batch_size"], "k": k, "n": n}

"""Whether a model was trained from fresh weights, as far as the receipts of its runs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from expunge.engine.adapters import base_of

FRESH = "fresh"  # in a receipt: the weights at the start were drawn anew
DRAWING = frozenset({"Reinitialize"})  # parts that draw all weights anew


def pretrained_from(model: nn.Module) -> str:
    """The folder or hub id of a model that may have been trained before; '' for a model that began with fresh weights.

    A module that was never loaded counts as one that began so, and so does a run that says it in its receipt.
    """
    config: Any = getattr(base_of(model), "config", None)
    source = str(getattr(config, "_name_or_path", "") or "")
    return "" if not source or began_fresh(source) else source


def began_fresh(source: str) -> bool:
    """Whether the runs that led to the model in a folder started from fresh weights."""
    visited: set[str] = set()
    while source and source not in visited:
        visited.add(source)
        folder = Path(source).expanduser()
        file = next((f for f in (folder / "receipt.json", folder.parent / "receipt.json") if f.exists()), None)
        if file is None:
            return False
        receipt = json.loads(file.read_text(encoding="utf-8"))
        drawn = any(isinstance(stage.get("action"), str) and stage["action"] in DRAWING for stage in receipt.get("stages", ()))
        if drawn or receipt.get("model", {}).get("start") == FRESH:
            return True
        source = str(receipt.get("model", {}).get("source", ""))
    return False

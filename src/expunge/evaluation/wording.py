"""How findings of a verdict are worded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.evaluation.profiles.profile import Finding, Level


def finding(level: Level, score: str | None, text: str) -> Finding:
    """One sentence of a verdict."""
    return {"level": level, "score": score, "text": text}


def shown(record: Mapping[str, Any]) -> str:
    """A value with its interval: `0.31 [0.25, 0.4]`."""
    low, high = record["interval"]
    return f"{record['value']:.3g} [{low:.3g}, {high:.3g}]"


def beside(name: str, record: Mapping[str, Any]) -> str:
    """A score beside the retrained model's."""
    return f"{name}: {shown(record)}, the retrained model {record['retrained']:.3g}"

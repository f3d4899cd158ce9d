"""What a program that starts a run is told on the way, and may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.engine.context import RunView


def nothing(*_: object) -> None:
    return None


@dataclass
class Hooks:
    """Callbacks of a run: logging, progress, checkpoints and interruption."""

    log: Callable[[Mapping[str, Any]], None] = nothing  # gets one record per step, and one at the end of a stage
    epoch: Callable[[Mapping[str, Any]], None] = nothing  # gets one record per epoch, with scores where they are watched
    progress: Callable[[int, int, str], None] = nothing  # steps done, steps in all (an estimate), name of the stage
    save: Callable[[dict[str, Any]], None] | None = None  # gets each checkpoint
    every: float = 30.0  # seconds between checkpoints; 0: one after each step
    interrupted: Callable[[], bool] = lambda: False  # checked after each step
    watch: Callable[[RunView], Mapping[str, float]] | None = None  # returns scores after each epoch
    best: str = ""  # name of the watched score whose best epoch is kept
    good: Callable[[float], float] = float  # maps that score to a value where higher is better

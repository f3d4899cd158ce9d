"""Scores after an epoch, and the weights of the epoch that is best by one of them."""

from __future__ import annotations

import math
from typing import Any

import torch

from expunge.core.rows import Sets
from expunge.engine.context import RunView
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState, evaluating
from expunge.engine.weights import put, trainable, weights_of


def watch(run: RunState, hooks: Hooks, sets: Sets, done: int) -> None:
    """Score the model after an epoch, and keep the weights of the best epoch.

    Args:
        sets: the rows of the stage.
        done: steps of the stage so far.
    """
    record: dict[str, Any] = {"stage": run.stage, "epoch": run.epoch, "done": done}
    if hooks.watch is None:
        return hooks.epoch(record)
    with evaluating(run.model), torch.no_grad():
        record["scores"] = scores = dict(hooks.watch(RunView(run, sets)))
    run.log.append(record)
    hooks.log(record)
    hooks.epoch(record)
    if hooks.best:
        # a missing score counts as the worst
        score = torch.tensor(hooks.good(scores.get(hooks.best, math.nan)), dtype=torch.float64).nan_to_num(-math.inf)
        if "best" not in run.models or score > run.models["best"]["$score"]:
            run.models["best"] = {**weights_of(run.model, trainable(run.model)), "$score": score, "$epoch": torch.tensor(run.epoch)}


def keep_best(run: RunState, hooks: Hooks) -> None:
    """Go back to the weights of the best epoch at the end of a stage, where one was watched."""
    if best := run.models.pop("best", None):
        put(run.model, {n: w for n, w in best.items() if not n.startswith("$")})
        run.warnings.append(f"kept the weights of epoch {int(best['$epoch'])} of {run.epoch}, the best by {hooks.best}")

"""Relearning: fine-tune the model on a few of the forgotten rows, and watch how fast what was forgotten comes back.
A model that has forgotten learns the rows no faster than a retrained one; one that merely hides them gives them up within a few steps.

Threat model: the attacker holds the weights and some rows of the forget set, and can fine-tune; a guard around the weights is taken off.
Source: Hu et al. 2024, arXiv 2406.13356; Lynch et al. 2024, arXiv 2402.16835
Scores: whatever the caller's `score` returns, after every so many steps; step 0 is before the attack
Needs: forget
Range and ideal: those of the scores; the ideal curve is that of the retrained model under the same attack
Differs: the rows are drawn from the forget set itself, not from related public text; a score over all forget rows counts them too
Status: reproduced
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from expunge.core.knobs import knob, override, part
from expunge.core.loop import Hooks, run
from expunge.core.parts import Modality, Plan, Selector, Sets, Train
from expunge.core.step import View, evaluating
from expunge.methods.terms import NLL


@part
class Few(Selector):
    """Some rows of the forget set, drawn once."""

    k: int = knob(10, "forget rows that the attacker holds", ge=1)
    reads = frozenset({"forget"})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        return {**sets, "forget": rows.take(torch.randperm(len(rows), generator=view.rng())[: self.k].tolist())}


def plan() -> Plan:
    return Plan(NLL("forget"), train=Train(epochs=0, steps=100, lr=1e-5, batch=8, schedule="constant"), selectors=(Few(),))


def curve(
    model: nn.Module,
    port: Modality,
    sets: Sets,
    score: Callable[[nn.Module], Mapping[str, float]],
    every: int = 10,
    accelerator: Accelerator | None = None,
    **knobs: Any,
) -> list[dict[str, Any]]:
    """Scores of a copy of the model under attack, `{"step", "scores"}`, every so many steps and after the last; the model stays as it is.

    knobs: those of `plan` by name (k, steps, lr, seed ...). Errors: UserError for an unknown one.
    """
    how = override(plan(), knobs)
    attacked = copy.deepcopy(getattr(model, "unguarded", model))
    points: list[dict[str, Any]] = []

    def look(step: int) -> None:
        with evaluating(attacked), torch.no_grad():
            points.append({"step": step, "scores": dict(score(attacked))})

    def heard(record: Mapping[str, Any]) -> None:
        if "loss" in record and record["done"] % every == 0:
            look(int(record["done"]))

    look(0)
    done = run((how,), attacked, port, sets, accelerator=accelerator, hooks=Hooks(log=heard)).cost.steps
    if points[-1]["step"] != done:
        look(done)
    return points

"""Relearning: fine-tune the model on a few of the forgotten rows, and watch how fast what was forgotten comes back.
A model that has forgotten learns the rows no faster than a retrained one; one that merely hides them gives them up within a few steps.

Threat model: the attacker holds the weights and some rows of the forget set, and can fine-tune; a guard around the weights is taken off.
Source: Hu et al. 2024, arXiv 2406.13356; Lynch et al. 2024, arXiv 2402.16835
Scores: those of the forget set, after every so many steps; step 0 is before the first one, with the guard off; and the steps to recover:
    the first look at which the score is at least a share (`recovered`) of the original's
Needs: forget; original (for the steps to recover)
Range and ideal: those of the scores; the ideal curve is that of the retrained model under the same attack
Differs: the rows are drawn from the forget set itself, not from related public text; a score over all forget rows counts them too
Status: shown
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.engine.hooks import Hooks
from expunge.engine.loop import run
from expunge.evaluation.attack import Attack, Scene
from expunge.methods.terms import NLL


@part
class Few(Selector):
    """Random rows of the forget set, drawn once."""

    k: int = hp(10, "forget rows that the attacker holds", ge=1)
    reads = frozenset({"forget"})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        return {**sets, "forget": rows.select(torch.randperm(len(rows), generator=view.rng())[: self.k].tolist())}


@part
class Relearn(Attack):
    """Plain fine-tuning on rows to forget."""

    how: Plan
    every: int = hp(10, "steps between two scores", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def run(self, scene: Scene) -> None:
        rows = scene.modality.rows("forget", scene.records)
        held = min([len(rows), *(s.k for s in self.how.selectors if isinstance(s, Few))])
        attacked = scene.bare()

        def look(step: int) -> None:
            scene.look(scene.scores(attacked), f"{step} steps", steps=step, rows=held)

        fine_tune(self.how, attacked, scene.weights_modality, rows, look, lambda step: step % self.every == 0, scene.accelerator)


def fine_tune(
    how: Plan,
    attacked: nn.Module,
    modality: Modality,
    rows: Rows,
    look: Callable[[int], None],
    when: Callable[[int], bool],
    accelerator: Accelerator | None = None,
    others: Sets | None = None,
) -> None:
    """Train a copy of the model in place; look at it before the first step, after some steps, and after the last. others: further sets."""
    looked = [0]
    look(0)

    def on_record(record: Mapping[str, Any]) -> None:
        if "loss" in record and when(step := int(record["done"])):
            looked.append(step)
            look(step)

    done = run(
        (how,), attacked, modality, {**(others or {}), "forget": rows}, accelerator=accelerator, hooks=Hooks(log=on_record)
    ).cost.steps
    if looked[-1] != done:
        look(done)


def plan() -> Relearn:
    return Relearn(Plan(NLL("forget"), train=Train(epochs=0, steps=100, lr=1e-5, batch_size=8, schedule="constant"), selectors=(Few(),)))

"""Benign fine-tuning: train the model on rows that have nothing to do with what was forgotten, and watch whether it comes back.
Whoever adapts an unlearned model to a task of his own may undo the unlearning without knowing of it.

Threat model: none is needed: the user of the weights fine-tunes them on rows of his own; a guard around the weights is taken off.
Source: Hu et al. 2024, arXiv 2406.13356 (unrelated data); Qi et al. 2023, arXiv 2310.03693 (benign fine-tuning undoes safety); Li et al.
    2025, arXiv 2507.16302 (ResAlign: the same for models that draw; there 200 steps on all weights of the denoiser at 1e-5, 4 rows a step)
Scores: those of the forget set, after every so many steps; step 0 is before the first one, with the guard off; and the steps to recover
Needs: forget; `data`, or retain; original (for the steps to recover)
Range and ideal: those of the scores; the ideal curve is that of the retrained model under the same attack
Differs: without `data`, the benign rows are the retained ones that have least in common with the rows to forget, by words (captions of
    pictures that a model draws, too) or pixels
Status: shown
"""

from __future__ import annotations

import numpy as np

from expunge.core.hyperparameters import hp, part
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.attacks.relearn import fine_tune
from expunge.evaluation.attacks.relearn_grid import likeness
from expunge.io.models import records as read
from expunge.methods.terms import NLL


@part
class FinetuneBenign(Attack):
    """Plain fine-tuning on unrelated rows."""

    how: Plan
    benign: str = hp("", "rows to train on: a file or a data set; empty: retained rows, the least like the rows to forget")
    k: int = hp(50, "rows that are trained on at most", ge=1)
    every: int = hp(20, "steps between two scores", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def run(self, scene: Scene) -> None:
        rows = self._rows(scene)
        if rows is None:
            scene.lacks("there is nothing to train on: give --benign FILE, or the audit a retain set")
            return
        attacked = scene.bare()

        def look(step: int) -> None:
            scene.look(scene.scores(attacked), f"{step} steps", steps=step, rows=len(rows))

        fine_tune(self.how, attacked, scene.weights_modality, rows, look, lambda step: step % self.every == 0, scene.accelerator)

    def _rows(self, scene: Scene) -> Rows | None:
        """What is trained on; None: there is nothing."""
        if self.benign:
            records = list(read(self.benign, "benign"))[: self.k]
        elif retained := scene.sets.get("retain"):
            order = np.argsort(likeness(scene.modality, scene.records, retained), kind="stable")
            records = [retained[i] for i in order[: self.k]]
        else:
            return None
        return scene.modality.rows("benign", records).rename("forget")


def plan() -> FinetuneBenign:
    return FinetuneBenign(Plan(NLL("forget"), train=Train(epochs=0, steps=100, lr=1e-5, batch_size=8, schedule="constant")))

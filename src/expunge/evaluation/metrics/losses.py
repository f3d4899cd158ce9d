"""Losses: how well the model still fits the forgotten, the retained and unseen items; every modality can answer this.
For modalities without metrics of their own: a forgotten item should be fitted as by the retrained model, like an unseen one.

Source: the loss that a model is trained on; the loss attack of Yeom et al. 2018 (arXiv 1709.01604)
Scores: forget_fit, retain_fit, unseen_fit, loss_attack
Needs: forget; retain, holdout
Range and ideal: exp(-loss), 0 to 1 where the loss is not negative, that of forgotten items ideal as the retrained model's; the attack's AUC
    about 0.5 where holdout is drawn like forget
Differs: nothing
Status: faithful
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import SetObservation

READS = frozenset({"losses"})  # what must have been observed
MARGIN = 0.1  # two retrained models with different seeds differ by less (studies/calibrate_verdict.py)
SCORES = {
    "forget_fit": ScoreSpec(
        "knowledge", "retrained", "how well forgotten items are still fitted: exp(-loss), on average", shows=True, margin=MARGIN
    ),
    "retain_fit": ScoreSpec("utility", "higher", "how well retained items are fitted: exp(-loss), on average"),
    "unseen_fit": ScoreSpec("utility", "higher", "how well unseen items are fitted: exp(-loss), on average"),
    "loss_attack": ScoreSpec(
        "membership", "retrained", "how well the loss tells forgotten items from unseen ones; 0.5: not at all", margin=1.5 * MARGIN
    ),
}


def loss(observation: SetObservation) -> Items:
    """Mean loss of each item, (items,). Raises: Missing, Broken."""
    if observation.loss is None:
        raise Missing("no losses were observed")
    if not np.isfinite(observation.loss).all():
        raise Broken("losses are not finite")
    return np.asarray(observation.loss, np.float64)


def fit(observation: SetObservation) -> Items:
    """exp(-loss) of each item, (items,)."""
    return np.asarray(np.exp(-loss(observation)))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def average(name: str) -> Measure:
        return averaged(evidence.items(name, fit))

    def attack() -> Measure:
        return Measure((evidence.items("forget", loss), evidence.items("holdout", loss)), auc, kernel=precedes)

    fits = {f"{name}_fit": attempt(average, of) for name, of in (("forget", "forget"), ("retain", "retain"), ("unseen", "holdout"))}
    return fits | {"loss_attack": attempt(attack)}

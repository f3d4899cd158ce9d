"""QMIA: is the model surer of a forgotten item than it would be of an unseen item that looks like it? A regression says how sure that is.
Items differ in how hard they are; the regression learns that from unseen items alone, so that no shadow model is needed.

Threat model: the attacker reads distributions over classes and the features before the last layer, and holds unseen items; nothing is
    changed.
Equation: s(x) = log p_y - log(1 - p_y); on unseen items, s given the features of x is normal, N(m(x), d(x)^2); an item is accused the more,
    the larger (s - m) / d is; at a rate alpha of false alarms, where s is above the quantile 1 - alpha that a quantile regression gives x
Source: Bertran et al. 2023, arXiv 2307.03694
Scores: qmia, qmia_accused
Needs: forget, holdout
Range and ideal: qmia AUC 0 to 1, about 0.5 where holdout is drawn like forget; qmia_accused, the share of the forgotten items accused at 5%
    of false alarms, ideally 0.05; both as the retrained model's
Differs: the regressions are linear in the first principal components of the model's own features, and do not see the image, where the paper
    trains a network on it; half of the unseen items teach them, and the other half is told apart. The threshold is set so that 5% of the
    teaching items lie above it
Status: not shown
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.attacks.mio import second_half
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.classification import log_probabilities
from expunge.evaluation.observation import HEAD, SetObservation

READS = frozenset({"distributions", "features"})  # what must have been observed
COMPONENTS = 8  # of the features, at most
ALPHA = 0.05  # rate of false alarms
FEWEST = 20  # unseen items that a regression learns from
SCORES = {
    "qmia": ScoreSpec(
        "membership",
        "retrained",
        "how well forgotten items are told from unseen ones that look alike; 0.5: not at all",
        margin=0.15,
        decides=False,
    ),
    "qmia_accused": ScoreSpec(
        "membership", "retrained", "share of the forgotten items that are accused where 5% of the unseen ones are", decides=False
    ),
}


def margin(observation: SetObservation) -> Items:
    """log p - log(1 - p) of the true class, (items,), in nats."""
    log_p = log_probabilities(observation)
    own = np.arange(len(observation)), observation.label
    others = log_p.copy()
    others[own] = -np.inf
    return np.asarray(log_p[own] - np.logaddexp.reduce(others, axis=1))


class Regressions:
    """What the margin of an unseen item is, by its features.

    Args:
        features: of unseen items, (items, width).
        margins: of the same items, (items,).
    """

    def __init__(self, features: Items, margins: Items) -> None:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import QuantileRegressor, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        components = min(COMPONENTS, features.shape[1], len(features) // 4)

        def of(regressor: Any) -> Any:
            return make_pipeline(StandardScaler(), PCA(components, random_state=0), StandardScaler(), regressor)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constant features
            self.mean = of(Ridge(1.0)).fit(features, margins)
            left = np.abs(margins - self.mean.predict(features))
            self.log_scale = of(Ridge(float(len(features)))).fit(features, np.log(left + 1e-3))
            self.quantile = of(QuantileRegressor(quantile=1 - ALPHA, alpha=1e-3)).fit(features, margins)
        above = margins - self.quantile.predict(features)
        self.shift = float(np.quantile(above, 1 - ALPHA))

    def suspicion(self, features: Items, margins: Items) -> Items:
        """How far margins lie above what is expected, in deviations, (items,): high accuses."""
        return np.asarray((margins - self.mean.predict(features)) / np.exp(self.log_scale.predict(features)))

    def accused(self, features: Items, margins: Items) -> Items:
        """Whether margins lie above the quantile, (items,) of 0 and 1."""
        return np.asarray(margins > self.quantile.predict(features) + self.shift, np.float64)


def described(observation: SetObservation) -> Items:
    """Half, margin and features of each item, (items, 2 + width)."""
    if HEAD not in observation.features:
        raise Missing("no features before the last layer were observed")
    return np.column_stack([second_half(observation), margin(observation), observation.features[HEAD]])


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def read() -> tuple[Regressions, Items, Items]:
        unseen, forgotten = evidence.items("holdout", described), evidence.items("forget", described)
        teaching, others = unseen[unseen[:, 0] == 1], unseen[unseen[:, 0] == 0]
        if len(teaching) < FEWEST:
            raise Missing(f"a regression needs {FEWEST} unseen items, and half of holdout has {len(teaching)}")
        return Regressions(teaching[:, 2:], teaching[:, 1]), forgotten, others

    learned = attempt(read)
    if isinstance(learned, Missing):
        return dict.fromkeys(SCORES, learned)
    regressions, forgotten, others = learned
    suspicion = tuple(-regressions.suspicion(x[:, 2:], x[:, 1]) for x in (forgotten, others))
    return {
        "qmia": Measure(suspicion, auc, "normal, linear in the features", kernel=precedes),
        "qmia_accused": averaged(
            regressions.accused(forgotten[:, 2:], forgotten[:, 1]), f"quantile regression, {ALPHA:.0%} of false alarms"
        ),
    }

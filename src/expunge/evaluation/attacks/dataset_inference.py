"""Dataset inference: was the forget set as a whole trained on? What no single item tells for sure, many items tell together.
Several membership scores are joined by a regression on one half of the items, and the other half is tested with it.

Threat model: the attacker holds all the items, or the pieces of a document, and unseen ones like them, and reads token probabilities;
    nothing is changed.
Equation: p of a one-sided Welch test that joined scores of forgotten items are below those of unseen ones; the weights are those of a
    linear regression of membership on the standardized scores of the other half
Source: Maini et al. 2024, LLM Dataset Inference, arXiv 2406.06443; Puerto et al. 2025, arXiv 2411.00154 (from pieces to documents)
Scores: dataset_inference, document_mia
Needs: forget, holdout; 20 items of each
Range and ideal: dataset_inference a p-value: below 0.05 the set is told from unseen items; document_mia AUC 0 to 1 of documents of five
    items each, joined by their mean; ideal as the retrained model's
Differs: the scores are those of mia that need no other model; halves go by the items' ids. Documents of document_mia are drawn, since items
    do not say which document they are of; `by_document` joins given ones
Status: faithful
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from expunge.evaluation.attacks.mia import auc, compressed_loss, loss, min_k, min_k_plus_plus
from expunge.evaluation.attacks.mio import second_half
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.observation import SetObservation

READS = frozenset({"tokens", "moments"})  # what must have been observed
FEWEST = 20  # items of each kind
SIZE = 5  # items of a drawn document
DOCUMENTS = 200  # drawn of each kind
FEATURES = (loss, compressed_loss, min_k, min_k_plus_plus)
SCORES = {
    "dataset_inference": ScoreSpec(
        "membership", "higher", "whether the forgotten items as a whole are told from unseen ones: a p-value", ideal=1.0, scale="p"
    ),
    "document_mia": ScoreSpec(
        "membership", "retrained", "how well five forgotten items together are told from five unseen ones; 0.5: not at all", decides=False
    ),
}


def features(observation: SetObservation) -> Items:
    """Half and membership scores of each item, (items, 1 + scores)."""
    columns = [attempt(of, observation) for of in FEATURES]
    known = [c for c in columns if not isinstance(c, Missing)]
    if not known:
        raise columns[0] if isinstance(columns[0], Missing) else Missing("no token probabilities were observed")
    return np.column_stack([second_half(observation), *known])


def joined(forgotten: Items, unseen: Items) -> tuple[Items, Items]:
    """The second halves' scores, joined by weights that the first halves gave: low ones accuse. Arrays of `features`."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    halves = [[x[x[:, 0] == h, 1:] for h in (0, 1)] for x in (forgotten, unseen)]
    learned = np.concatenate([halves[0][0], halves[1][0]])
    unseen_kind = np.repeat([0.0, 1.0], [len(halves[0][0]), len(halves[1][0])])
    regression = make_pipeline(StandardScaler(), Ridge(1.0)).fit(learned, unseen_kind)
    return np.asarray(regression.predict(halves[0][1])), np.asarray(regression.predict(halves[1][1]))


def p_value(forgotten: Items, unseen: Items) -> float:
    """Of a one-sided Welch test that forgotten items score lower."""
    from scipy.stats import ttest_ind

    if np.ptp(np.concatenate([forgotten, unseen])) == 0:
        return 1.0
    return float(ttest_ind(forgotten, unseen, equal_var=False, alternative="less").pvalue)


def by_document(values: Items, documents: Sequence[Hashable]) -> Items:
    """The mean of the items of each document, (documents,), in the order in which documents first occur."""
    places = {d: k for k, d in enumerate(dict.fromkeys(documents))}
    item = np.array([places[d] for d in documents])
    return np.asarray(np.bincount(item, weights=values) / np.bincount(item))


def document_auc(forgotten: Items, unseen: Items) -> float:
    """AUC of the means of five items, of documents drawn from both kinds."""
    rng = np.random.default_rng(0)
    means = [rng.choice(x, (DOCUMENTS, min(SIZE, len(x)))).mean(1) for x in (forgotten, unseen)]
    return auc(*means)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def read() -> tuple[Items, Items]:
        forgotten, unseen = (evidence.items(name, features) for name in ("forget", "holdout"))
        if min(len(forgotten), len(unseen)) < FEWEST:
            raise Missing(f"a set is told from another one by {FEWEST} items of each, and there are {min(len(forgotten), len(unseen))}")
        return joined(forgotten, unseen)

    both = attempt(read)
    if isinstance(both, Missing):
        return dict.fromkeys(SCORES, both)
    return {"dataset_inference": Measure(both, p_value), "document_mia": Measure(both, document_auc, f"documents of {SIZE} items")}

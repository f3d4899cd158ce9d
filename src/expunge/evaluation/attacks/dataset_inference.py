"""Dataset inference: was the forget set as a whole trained on? What no single item tells for sure, many items tell together.
Several membership scores are joined by a regression on one half of the items, and the other half is tested with it.

Threat model: the attacker holds all the items, or the pieces of a document, and unseen ones like them, and reads token probabilities;
    nothing is changed.
Equation: p of a one-sided Welch test that joined scores of forgotten items are below those of unseen ones; the weights are those of a
    linear regression of membership on the standardized scores of the other half
Source: Maini et al. 2024, LLM Dataset Inference, arXiv 2406.06443; Puerto et al. 2025, arXiv 2411.00154 (from pieces to documents)
Scores: dataset_inference, document_mia
Needs: forget, holdout; 20 items of each
Range and ideal: dataset_inference a p-value: below 0.05 the set is told from unseen items; document_mia AUC 0 to 1 of documents, whose
    pieces are joined by their mean; ideal as the retrained model's
Differs: the scores are those of mia that need no other model; halves go by the items' ids. Documents are those of the column `document`, or
    texts that are too long for one window of the model; where rows of either set tell no documents, ones of five items each are drawn
Status: not shown
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from expunge.evaluation.attacks.mia import auc, compressed_loss, loss, min_k, min_k_plus_plus, precedes
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
        "membership",
        "retrained",
        "how well forgotten documents are told from unseen ones by all their pieces; 0.5: not at all",
        decides=False,
    ),
}


def features(observation: SetObservation) -> Items:
    """Half, document (-1: not known) and membership scores of each item, (items, 2 + scores)."""
    columns = [attempt(of, observation) for of in FEATURES]
    known = [c for c in columns if not isinstance(c, Missing)]
    if not known:
        raise columns[0] if isinstance(columns[0], Missing) else Missing("no token probabilities were observed")
    document = observation.document if observation.document is not None else np.full(len(observation), -1)
    return np.column_stack([second_half(observation), document, *known])


def joined(forgotten: Items, unseen: Items) -> tuple[Items, Items]:
    """The second halves' documents and scores, (items, 2) each, joined by weights that the first halves gave: low ones accuse.

    Args:
        forgotten, unseen: arrays of `features`.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    halves = [[x[x[:, 0] == h, 2:] for h in (0, 1)] for x in (forgotten, unseen)]
    documents = [x[x[:, 0] == 1, 1] for x in (forgotten, unseen)]
    learned = np.concatenate([halves[0][0], halves[1][0]])
    unseen_kind = np.repeat([0.0, 1.0], [len(halves[0][0]), len(halves[1][0])])
    regression = make_pipeline(StandardScaler(), Ridge(1.0)).fit(learned, unseen_kind)
    ours, others = (np.column_stack([d, regression.predict(half[1])]) for d, half in zip(documents, halves, strict=True))
    return ours, others


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


def drawn_auc(forgotten: Items, unseen: Items) -> float:
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
    values = both[0][:, 1], both[1][:, 1]
    if any((x[:, 0] < 0).any() for x in both):
        documents = Measure(values, drawn_auc, f"drawn documents of {SIZE} items")
    else:
        means = by_document(both[0][:, 1], both[0][:, 0].tolist()), by_document(both[1][:, 1], both[1][:, 0].tolist())
        documents = Measure(means, auc, "documents of the rows", kernel=precedes)
    return {"dataset_inference": Measure(values, p_value), "document_mia": documents}

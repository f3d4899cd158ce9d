"""Can unseen rows be told from the rows to forget by their words alone? Then a membership attack would measure that, and no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expunge.core.errors import UserError

FEWEST = 12  # texts of each kind, below which the test could not see a difference
FOLDS = 4
SHUFFLES = 99
HIGHEST = 0.6  # area under the curve that is no difference, up to chance
ALPHA = 0.05


@dataclass(frozen=True)
class BlindTest:
    """The outcome: the area under the ROC curve of a classifier on words, how often shuffled labels reach it, and whether that passes."""

    auc: float | None
    p: float | None
    forget: int
    holdout: int
    passed: bool
    why: str


def blind_test(forget: Sequence[str], holdout: Sequence[str], seed: int = 0) -> BlindTest:
    """Try to tell two kinds of texts apart by their words (TF-IDF, logistic regression, cross-validated).

    Args:
        forget, holdout: the texts.
        seed: of folds and shuffles.

    Raises:
        UserError: where there are no texts to forget.
    """
    if not forget:
        raise UserError("there are no texts to forget")
    if min(len(forget), len(holdout)) < FEWEST:
        why = f"{len(forget)} rows to forget and {len(holdout)} unseen ones are too few to tell them apart or not: it takes {FEWEST}"
        return BlindTest(None, None, len(forget), len(holdout), False, why)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    labels, random = np.array([1] * len(forget) + [0] * len(holdout)), np.random.default_rng(seed)
    texts = [*forget, *holdout]

    def auc(of: np.ndarray) -> float:
        model = make_pipeline(TfidfVectorizer(token_pattern=r"\w+"), LogisticRegression(class_weight="balanced"))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        return float(roc_auc_score(of, cross_val_predict(model, texts, of, cv=folds, method="predict_proba")[:, 1]))

    value = auc(labels)
    as_high = sum(auc(random.permutation(labels)) >= value for _ in range(SHUFFLES))
    p = (as_high + 1) / (SHUFFLES + 1)
    passed = value <= HIGHEST or p > ALPHA
    why = "" if passed else f"words alone tell it from the rows to forget (area under the curve {value:.2f}, p = {p:.2f})"
    return BlindTest(round(value, 4), round(p, 4), len(forget), len(holdout), passed, why)

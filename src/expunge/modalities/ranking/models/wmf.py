"""Matrix factorization with a pointwise loss: products of vectors are logits, and each interaction is a case for binary cross-entropy.

The model that studies of recommendation unlearning call WMF: every interaction counts as 1, and sampled items as 0.

Source: Hu et al. 2008, Collaborative filtering for implicit feedback datasets; with sampled negatives as in CURE4Rec (arXiv 2408.14393)
Differs: as in CURE4Rec, no weights and no squared error: cross-entropy of logits with one negative for each interaction, redrawn each step
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.models.bpr_mf import MatrixFactorization
from expunge.modalities.ranking.network import Recommender

SIZES = {"wmf-nano": 16, "wmf-micro": 64}  # width of the vectors
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 60, "lr": 1e-2, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}
recommender = MatrixFactorization


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model("wmf", "bce", {"width": SIZES[size]}, records, **options)

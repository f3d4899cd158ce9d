"""WBC: windows of a few tokens vote on whether the model knows them better than a model without the item; many small votes beat one mean.
Memory sits in short runs of tokens, and a mean over a whole answer drowns them.

Threat model: the attacker reads token probabilities of answers under the model and under one that never saw the forget set; nothing is
    changed.
Equation: score = mean over window sizes w of the share of windows of w tokens in which the sum of the loss is below that of the reference
Source: Chen et al. 2026, Window-based Membership Inference Attacks Against Fine-tuned Large Language Models, arXiv 2601.02751
Scores: wbc
Needs: forget, holdout; retrained
Range and ideal: AUC 0 to 1, ideal as the retrained model's, 0.5
Differs: reconstructed from its description: the ten window sizes go geometrically from 2 to 40; those longer than an answer are left out,
    and an answer of one token is one window; equal sums count half
Status: not shown
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.token_values import beside_retrained

READS = frozenset({"tokens"})  # what must have been observed
SIZES = tuple(dict.fromkeys(round(2 * 20 ** (k / 9)) for k in range(10)))  # tokens of a window
SCORES = {
    "wbc": ScoreSpec(
        "membership",
        "retrained",
        "how well forgotten items are told from unseen ones by votes of short windows; 0.5: not at all",
        margin=0.15,
        decides=False,
    )
}


def votes(own: Items, reference: Items, sizes: tuple[int, ...] = SIZES) -> float:
    """Share of windows in which an answer is likelier than under the reference, averaged over sizes; log-probabilities (tokens,) each."""
    gain = np.concatenate([[0.0], np.cumsum(own - reference)])
    shares = []
    for size in [s for s in sizes if s < len(gain)] or [len(gain) - 1]:
        windows = gain[size:] - gain[:-size]
        windows = np.where(np.abs(windows) < 1e-9, 0, windows)  # differences of sums that are equal
        shares.append(float(((np.sign(windows) + 1) / 2).mean()))
    return float(np.mean(shares))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        forgotten, unseen = (
            np.array([-votes(own[:, 0], other[:, 0]) for own, other in beside_retrained(evidence, name)]) for name in ("forget", "holdout")
        )
        return Measure((forgotten, unseen), auc, f"windows of {SIZES[0]} to {SIZES[-1]} tokens", kernel=precedes)

    return {"wbc": attempt(measure)}

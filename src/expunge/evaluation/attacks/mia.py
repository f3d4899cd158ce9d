"""Membership inference: can an attacker tell the forgotten items from items that the model never saw?
A probe gives each item a score that is low for members; its value is the area under the ROC curve, 1 where all forgotten items stand out.

Threat model: the attacker holds candidate items and reads token probabilities of their answers (loss, zlib, min_k), whole next-token
    distributions (min_k_plus_plus), gradients (gradnorm), or also a model that never saw the forget set (reference); nothing is changed.
Source: Carlini et al. 2021 (arXiv 2012.07805), Shi et al. 2023 (arXiv 2310.16789), Zhang et al. 2024 (arXiv 2404.02936),
    Shi et al. 2024, MUSE (arXiv 2407.06460), OpenUnlearning (arXiv 2506.12618)
Scores: mia_loss, mia_zlib, mia_reference, mia_gradnorm, mia_min_k, mia_min_k_plus_plus, privleak
Needs: forget, holdout; retrained (for mia_reference), gradnorm (for mia_gradnorm), mean and std (for mia_min_k_plus_plus)
Range and ideal: AUC 0 to 1, ideal as the retrained model, about 0.5 where holdout is drawn like forget; privleak from -100, ideal 0
Differs: the last label is left out only where it is the end of the sequence; holdout items that stand in the forget set are refused
Status: shown
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt, item_mean, labeled
from expunge.evaluation.metrics.memorization import content
from expunge.evaluation.observation import Scored, SetObservation

READS = frozenset({"tokens", "moments", "gradient_norms"})  # what must have been observed
SHARE = 0.4  # of the tokens that Min-K reads: the least probable ones; the leaderboards' value
TINY = 1e-10  # part of the published definition of privleak


def auc(members: Items, others: Items) -> float:
    """P(a member scores lower than another item), ties counting half; members (m,), others (n,): low scores accuse."""
    ranked = np.sort(members)
    below = np.searchsorted(ranked, others, side="left") + np.searchsorted(ranked, others, side="right")
    return float(below.mean() / 2 / len(members))


def precedes(members: Items, others: Items) -> Items:
    """What `auc` is the mean of, (m, n): 1 where a member scores lower than another item, 0.5 where both score the same."""
    return np.asarray((members[:, None] < others) + 0.5 * (members[:, None] == others))


def tpr_at_fpr(members: Items, others: Items, fpr: float) -> float:
    """Share of members accused at the threshold that accuses as many others as `fpr` (0 to 1) allows, and no more."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))  # 1e-9: 0.29 * 100 is 28.999...
    return float(np.mean(members < np.sort(others)[allowed])) if allowed < len(others) else 1.0


def leak(auc_model: float, auc_retrained: float) -> float:
    """privleak: the relative distance in percent of 1 - AUC from the retrained model's."""
    return 100 * (auc_retrained - auc_model) / (1 - auc_retrained + TINY)


def lowest(values: Items, share: float = SHARE) -> float:
    """Minus the mean of the smallest `share` (above 0, to 1) of the values (N,), at least one of them; N > 0."""
    m = max(1, int(share * len(values)))
    return -float(np.partition(values, m - 1)[:m].mean())


def loss(observation: SetObservation) -> Items:
    """Mean loss per label, (items,), in nats."""
    return _by_item(observation, lambda scored: -scored.mean_logp())


def compressed_loss(observation: SetObservation) -> Items:
    """Mean loss per label divided by the bytes of the compressed answer, (items,)."""

    def of(scored: Scored) -> Items:
        if not scored.text:
            raise Missing("no texts of the answers were observed")
        size = np.array([len(zlib.compress(text.encode())) for text in scored.text], np.float64)
        return np.divide(-scored.mean_logp(), size)

    return _by_item(observation, of)


def gradient_norms(observation: SetObservation) -> Items:
    """Mean over weight tensors of the norm of the loss's gradient, (items,), as observed."""
    if observation.gradient_norms is None:
        raise Missing("no gradient norms were observed")
    if not np.isfinite(observation.gradient_norms).all():
        raise Broken("gradient norms are not finite")
    norms: Items = observation.gradient_norms.astype(np.float64)
    return norms


def min_k(observation: SetObservation, share: float = SHARE) -> Items:
    """Min-K%: mean loss of the least probable tokens, (items,), in nats."""
    return _by_item(observation, lambda scored: _lowest(scored, scored.target_logp.astype(np.float64), share))


def min_k_plus_plus(observation: SetObservation, share: float = SHARE) -> Items:
    """Min-K%++: as Min-K%, of log-probabilities standardized under the model's own next-token distribution, (items,)."""

    def of(scored: Scored) -> Items:
        if scored.mean is None or scored.std is None:
            raise Missing("no moments of the next-token distributions were observed")
        return _lowest(scored, (scored.target_logp.astype(np.float64) - scored.mean) / scored.std, share)

    return _by_item(observation, of)


PROBES: dict[str, PerItem] = {
    "mia_loss": loss,
    "mia_zlib": compressed_loss,
    "mia_reference": loss,
    "mia_gradnorm": gradient_norms,
    "mia_min_k": min_k,
    "mia_min_k_plus_plus": min_k_plus_plus,
}
VARIANTS = {
    "mia_loss": "mean loss of a label",
    "mia_zlib": "mean loss of a label by zlib bytes of the answer",
    "mia_reference": "difference of losses",
    "mia_gradnorm": "mean L2 norm over weight tensors",
    "mia_min_k": f"k = {SHARE}",
    "mia_min_k_plus_plus": f"k = {SHARE}",
}

MEANING = "how well {} tells forgotten items from unseen ones; 0.5: not at all"
EVIDENCE = {
    "mia_loss": "the loss of the answer",
    "mia_zlib": "the loss beside how well the answer compresses",
    "mia_reference": "the loss beside the retrained model's",
    "mia_gradnorm": "the size of the gradient",
    "mia_min_k": "the loss of the least probable tokens",
    "mia_min_k_plus_plus": "the loss of the least probable tokens, standardized",
}
MARGIN = 0.15  # of an AUC: two retrained models with different seeds differ by less (studies/calibrate_verdict.py)
DECIDE = ("mia_loss",)  # the probes say nearly the same: demanding all of them would only ask for more rows
SCORES = {
    **{
        probe: ScoreSpec("membership", "retrained", MEANING.format(EVIDENCE[probe]), margin=MARGIN, decides=probe in DECIDE)
        for probe in PROBES
    },
    "privleak": ScoreSpec(
        "membership", "retrained", "how far membership of forgotten items shows beyond the retrained model, in percent", ideal=0.0
    ),
}


def item_scores(evidence: Evidence, probe: str) -> tuple[Items, Items]:
    """The scores of a probe of `PROBES` on (forget, holdout) items, which `auc` and `tpr_at_fpr` take. Raises: Missing."""
    if probe == "mia_reference":
        members, others = _both(evidence, partial(evidence.pairs, of=loss))
        return members[:, 0] - members[:, 1], others[:, 0] - others[:, 1]
    return _both(evidence, partial(evidence.items, of=PROBES[probe]))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def area(probe: str) -> Measure:
        return Measure(item_scores(evidence, probe), auc, VARIANTS[probe], kernel=precedes)

    return {probe: attempt(area, probe) for probe in PROBES} | {"privleak": attempt(_privleak, evidence)}


def _privleak(evidence: Evidence) -> Measure:
    """The bootstrap draws the two models' scores of an item together."""
    if evidence.retrained is None:
        chance, variant = 0.5, f"Min-K, k = {SHARE}, against an AUC of 0.5 as no retrained model was given"
        return Measure(
            item_scores(evidence, "mia_min_k"),
            lambda members, others: leak(auc(members, others), chance),
            variant=variant,
        )
    both = _both(evidence, partial(evidence.pairs, of=min_k))

    def stat(members: Items, others: Items) -> float:
        return leak(auc(members[:, 0], others[:, 0]), auc(members[:, 1], others[:, 1]))

    return Measure(both, stat, variant=f"Min-K, k = {SHARE}, against the retrained model")


def _both(evidence: Evidence, read: Callable[[str], Items]) -> tuple[Items, Items]:
    members, others = read("forget"), read("holdout")
    sets = evidence.model.sets
    if shared := len(set(sets["forget"].ids) & set(sets["holdout"].ids)):
        raise Missing(f"{shared} items stand both in forget and in holdout, so holdout is no sample of unseen items")
    return members, others


def _by_item(observation: SetObservation, of: Callable[[Scored], Items]) -> Items:
    scored = labeled(observation, "answer")
    return item_mean(of(scored), scored.item, len(observation))


def _lowest(scored: Scored, values: Items, share: float) -> Items:
    answers = [content(scored, k, values) for k in range(len(scored))]
    return np.array([lowest(x, share) if len(x) else np.nan for x in answers])

"""RMIA: does a forgotten item gain more from this model than unseen items do? Each is compared with what models without it give it.
Against a few models that never saw the item it is stronger than attacks that compare items alone, also where hardly any alarm may be false.

Threat model: the attacker reads distributions over classes of the model and of one that never saw the forget set (the retrained model), and
    holds unseen items of her own; with `attack`, she trains shadow models; nothing is changed.
Equation: r(x) = p(x) / q(x), q(x) = ((1 + a) q_out(x) + 1 - a) / 2; score(x) = share of the population items z with r(x) >= gamma r(z)
Source: Zarifzadeh et al. 2024, arXiv 2312.03262
Scores: rmia
Needs: forget, holdout; retrained
Range and ideal: AUC 0 to 1, ideal as the retrained model's, about 0.5
Differs: the retrained model is the one reference model; half of holdout is the population, and the other half the items to tell from. a is
    0.3, which the paper tunes for each data set, and gamma 2; p is the probability of the true class. Ratios are averaged over models
    before they are compared (offline form)
Status: undecided
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from expunge.core.modality import Modality
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Rows
from expunge.engine.ensemble import alone, subsets
from expunge.evaluation.attacks.lira import shadow_rows, summary
from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.attacks.mio import second_half
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.metrics.classification import confidence
from expunge.evaluation.observation import SetObservation
from expunge.parallel.ensembles import HERE, Work, margins, train

READS = frozenset({"distributions"})  # what must have been observed
A, GAMMA = 0.3, 2.0
TINY = 1e-30
SCORES = {
    "rmia": ScoreSpec(
        "membership",
        "retrained",
        "how well forgotten items are told from unseen ones by what they gain beyond the retrained model; 0.5: not at all",
        margin=0.15,
        decides=False,
    )
}


def ratio(p: Items, out: Items, a: float = A) -> Items:
    """How much more probable items are under a model than under one without them, (items,).

    Args:
        p: probability of the true class under the model.
        out: its mean over models that never saw the item.
        a: how far the probability without an item is from that over all models: 0 far, 1 the same.
    """
    return np.asarray(p / np.maximum(((1 + a) * out + 1 - a) / 2, TINY))


def dominance(items: Items, population: Items, gamma: float = GAMMA) -> Items:
    """Share of the population that each item's ratio exceeds gamma times, (items,): high accuses."""
    return np.asarray(np.searchsorted(np.sort(gamma * population), items, side="right") / len(population))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        both = {name: evidence.pairs(name, confidence) for name in ("forget", "holdout")}
        halves = evidence.items("holdout", _half)
        if len(halves) != len(both["holdout"]) or len(halves) < 4:
            raise Missing(f"a population and items to tell from need four unseen items, and there are {len(halves)}")
        forgotten, unseen = (ratio(x[:, 0], x[:, 1]) for x in both.values())
        population, others = unseen[halves == 1], unseen[halves == 0]
        return Measure((-dominance(forgotten, population), -dominance(others, population)), auc, f"a = {A}, gamma = {GAMMA:g}", precedes)

    return {"rmia": attempt(measure)}


def _half(observation: SetObservation) -> Items:
    return np.asarray(second_half(observation), np.float64)


def attack(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Rows],
    plan: Plan | Plans,
    *,
    shadows: int = 8,
    a: float = A,
    gamma: float = GAMMA,
    seed: int = 0,
    work: Work = HERE,
) -> dict[str, float]:
    """Attack a model with shadow models of one's own: forget rows as members, half of the holdout rows as others, half as population.

    Args:
        plan: the training of the model, from fresh weights, on the set `retain`.
        shadows: number of shadow models, even; each is trained on half of all rows.
        a, gamma: see the card.

    Returns:
        The scores of `lira.summary`; its balanced accuracy is at the threshold of half of the population.

    Raises:
        UserError: as the training of the shadow models raises it.
        ValueError: for too few shadow models.
    """
    rows = shadow_rows(sets)
    pool = train(plan, model, modality, rows, subsets(len(rows), shadows, seed=seed, paired=True), seed=seed, work=work)
    members, others = len(sets["forget"]), len(sets["holdout"])
    judged = rows.select(range(members + others))
    shadow, own = (1 / (1 + np.exp(-margins(p, modality, judged).cpu().double().numpy())) for p in (pool, alone(model)))
    unseen_by = ~pool.trained_on[:, : members + others].numpy()
    out = np.where(unseen_by, shadow, 0).sum(0) / unseen_by.sum(0)
    ratios = ratio(own[0], out, a)
    population, unknown = ratios[members::2], ratios[members + 1 :: 2]
    by_kind = [dominance(x, population, gamma) - 0.5 for x in (ratios[:members], unknown)]
    return summary(*by_kind)

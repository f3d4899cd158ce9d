"""LiRA: was this very item trained on? A likelihood-ratio test of its margin, against shadow models that know it and others that do not.
Population attacks compare items with each other; this one compares each item with itself, and finds members that look like any other.

Threat model: the attacker holds candidate items, data like the training data, and the training procedure; reads the probabilities of the
    attacked model; trains shadow models of her own; nothing is changed.
Source: Carlini et al. 2022 (arXiv 2112.03570)
Scores: auc, tpr_at_0.1%_fpr, tpr_at_1%_fpr, balanced_accuracy (a ratio above 1 accuses), best_accuracy (balanced, at the best threshold)
Needs: forget (members, or what should not look like them), holdout (items never seen), retain (fills the shadows' training sets)
Range and ideal: AUC and accuracy 0.5 to 1, of a model that forgot 0.5; rates at a low rate of false alarms ideally equal that rate
Differs: one query an item. By default (form `pooled`) normals have means, and below 64 shadow models a side one variance within items,
    pooled over them; deviations are at least 0.001. The authors' released code with a fixed variance (form `released`) takes medians, and
    for both normals one standard deviation of all margins of members, the spread between items included, and reports best_accuracy; its cut
    to equally many models an item is left out
Status: shown
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import nn

from expunge.core.modality import Modality
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Rows
from expunge.engine.ensemble import alone, subsets
from expunge.evaluation.attacks.mia import auc, tpr_at_fpr
from expunge.evaluation.measure import Items
from expunge.parallel.ensembles import HERE, Work, margins, train

FEW = 64  # shadow models a side: below it their variances are pooled
LEAST = 1e-3  # standard deviation
Flags = NDArray[np.bool_]
Form = Literal["pooled", "released"]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and standard deviation of each item's margin, (items,); nan where too few models give a margin."""

    mean: Items
    std: Items

    def log(self, margin: Items) -> Items:
        """Log-density of margins, (..., items)."""
        return np.asarray(-0.5 * ((margin - self.mean) / self.std) ** 2 - np.log(self.std) - 0.5 * np.log(2 * np.pi))


def fit(margin: Items, chosen: Flags, few: int = FEW) -> Gaussian:
    """Normals of the margins (models, items) that are chosen, (models, items); with fewer than `few` an item, of one common variance."""
    count = chosen.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(chosen, margin, 0).sum(0) / count
        squares = np.where(chosen, (margin - mean) ** 2, 0).sum(0)
        pooled = squares.sum() / np.maximum(count - 1, 0).sum()
        std = np.sqrt(np.where(count.min() < few, pooled, squares / (count - 1)))
    return Gaussian(np.asarray(mean), np.asarray(np.maximum(std, LEAST)))


def normals(margin: Items, members: Flags, others: Flags, few: int = FEW, form: Form = "pooled") -> tuple[Gaussian, Gaussian]:
    """Normals of the margins of members and of others, from margins and flags (models, items).

    Args:
        few: number of models a side below which the variance is pooled (pooled).
        form: pooled: see `fit`; released: medians, and one standard deviation of all margins of members, as in the authors' code.
    """
    if form == "pooled":
        return fit(margin, members, few), fit(margin, others, few)
    std = np.full(margin.shape[1], max(float(np.std(margin[members])), 1e-30) if members.any() else np.nan)
    medians = (np.ma.median(np.ma.array(margin, mask=~chosen), axis=0) for chosen in (members, others))
    member, other = (Gaussian(np.asarray(np.ma.filled(median.astype(np.float64), np.nan)), std) for median in medians)
    return member, other


def log_ratio(margin: Items, members: Gaussian, others: Gaussian) -> Items:
    """log N(margin; members) - log N(margin; others), (..., items): high accuses."""
    return members.log(margin) - others.log(margin)


def offline(margin: Items, others: Gaussian) -> Items:
    """Probability that a model that never saw the item has a lower margin, (..., items): high accuses. No shadow model knows the item."""
    return np.asarray(ndtr((margin - others.mean) / others.std))


def left_out(margin: Items, members: Flags, others: Flags, few: int = FEW, form: Form = "pooled") -> Items:
    """The log-ratio of each model's margins under normals of all other models, (models, items): the pool attacks itself."""
    other_models = ~np.eye(len(margin), dtype=bool)

    def ratio(m: Items, k: Flags) -> Items:
        return log_ratio(m, *normals(margin, members & k[:, None], others & k[:, None], few, form))

    return np.stack([ratio(m, k) for m, k in zip(margin, other_models, strict=True)])


def summary(members: Items, others: Items) -> dict[str, float]:
    """The scores of the card, from log-ratios (any shape) of members and of others; nan values do not count.

    Raises:
        ValueError: where nothing is left of one kind.
    """
    m, o = (np.asarray(x[~np.isnan(x)]) for x in (members, others))
    if not len(m) or not len(o):
        raise ValueError("no item was seen by some shadow models and not by others: train more of them")
    return {
        "auc": auc(-m, -o),
        "tpr_at_0.1%_fpr": tpr_at_fpr(-m, -o, 0.001),
        "tpr_at_1%_fpr": tpr_at_fpr(-m, -o, 0.01),
        "balanced_accuracy": float((m > 0).mean() / 2 + (o <= 0).mean() / 2),
        "best_accuracy": best_accuracy(m, o),
    }


def best_accuracy(members: Items, others: Items) -> float:
    """Balanced accuracy at the threshold that is best for it, which an attacker does not know; from log-ratios of members and of others."""
    thresholds = np.unique(np.concatenate([members, others]))
    below = [np.searchsorted(np.sort(x), thresholds) / len(x) for x in (members, others)]  # shares below each threshold
    return float(max(0.5, ((1 - below[0] + below[1]) / 2).max()))


def shadow_rows(sets: Mapping[str, Rows]) -> Rows:
    """The rows that shadow models are trained on halves of: those to forget, then unseen ones, then those to keep, where there are such."""
    names = [n for n in ("forget", "holdout", "retain") if n in sets]
    rows = sets[names[0]].rename("retain")
    for n in names[1:]:
        rows = rows.concat(sets[n])
    return rows


def attack(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Rows],
    plan: Plan | Plans,
    *,
    shadows: int = 64,
    seed: int = 0,
    form: Form = "pooled",
    work: Work = HERE,
) -> dict[str, float]:
    """Attack a model: forget rows as members, holdout rows as others. Shadow models are trained on halves of all rows.

    Args:
        plan: the training of the model, from fresh weights, on the set `retain`, e.g. the plan of the method `retrain`.
        shadows: number of shadow models, even.
        form: how the normals are fitted, see `normals`.

    Raises:
        UserError: as the training of the shadow models raises it.
        ValueError: for too few shadow models.
    """
    rows = shadow_rows(sets)
    pool = train(plan, model, modality, rows, subsets(len(rows), shadows, seed=seed, paired=True), seed=seed, work=work)
    item_count = len(sets["forget"]) + len(sets["holdout"])
    shadow_margins, model_margins = (
        margins(p, modality, rows.select(range(item_count))).cpu().double().numpy() for p in (pool, alone(model))
    )
    members = pool.trained_on[:, :item_count].numpy()
    ratio = log_ratio(model_margins[0], *normals(shadow_margins, members, ~members, form=form))
    return summary(ratio[: len(sets["forget"])], ratio[len(sets["forget"]) :])

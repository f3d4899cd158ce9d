"""U-LiRA: can an adversary tell an item that was unlearned from one that was never seen?
A likelihood-ratio test of the item's margin, fitted on shadow models that were unlearned with the very same method.

Threat model: the attacker knows training procedure, unlearning method and candidate items, holds data like the training data, and reads
    the probabilities of the attacked model; trains and unlearns shadow models of her own; nothing is changed.
Source: Hayes et al. 2024 (arXiv 2403.01218); the test is that of Carlini et al. 2022 (arXiv 2112.03570)
Scores: accuracy, auc, tpr_at_0.1%_fpr, tpr_at_1%_fpr, best_accuracy, item_accuracy_p95; population_auc, of the same margins without a
    fit of each item, which takes one threshold for all
Needs: rows like the training data; the plans that train and that unlearn a model
Range and ideal: AUC and accuracies 0.5 (told from never seen by chance only, as after retraining) to 1; without any unlearning that of LiRA
Differs: each shadow model forgets at once all candidates that it has seen, half of them, where published protocols draw several smaller
    sets; every model is attacked with the fits of the others; below 8 models a side variances are pooled (form `pooled`; `released` as in
    lira)
Status: shown
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Plans
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine.ensemble import subsets
from expunge.evaluation.attacks.lira import Flags, Form, left_out, summary
from expunge.evaluation.attacks.mia import auc
from expunge.evaluation.measure import Items
from expunge.parallel.ensembles import HERE, Work, margins, train, unlearn

FEW = 8  # shadow models a side: below it their variances are pooled


def item_accuracy(ratio: Items, unlearned: Flags, unseen: Flags) -> Items:
    """Balanced accuracy of the attack on each item, (items,). ratio: log-ratios (models, items); nan values do not count."""
    accused = np.where(np.isnan(ratio), np.nan, ratio > 0)
    shares = [np.nanmean(np.where(kind, correct, np.nan), axis=0) for kind, correct in ((unlearned, accused), (unseen, 1 - accused))]
    return np.asarray((shares[0] + shares[1]) / 2)


def attack(
    model: nn.Module,
    modality: Modality,
    rows: Rows,
    plan: Plan | Plans,
    method: Plan | Plans,
    *,
    candidates: int = 200,
    shadows: int = 64,
    seed: int = 0,
    form: Form = "pooled",
    work: Work = HERE,
) -> dict[str, float]:
    """Attack an unlearning method by shadow models that it unlearned.

    Args:
        model: gives the architecture; its weights do not matter.
        rows: data; each shadow model trains on half of them.
        plan: the training, from fresh weights, on the set `retain`, e.g. the plan of the method `retrain`.
        method: the unlearning.
        candidates: number of drawn rows that the attack is about; a shadow model forgets the half of them that it has seen.
        shadows: number of shadow models, even.
        form: how the normals are fitted, see `lira.normals`.

    Raises:
        UserError: for too few shadow models or candidates.
    """
    if shadows < 4 or not 1 < candidates < len(rows):
        raise UserError(f"{shadows} shadow models and {candidates} candidates of {len(rows)} rows: at least 4 and 2, and not all rows")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed_of(seed, "candidates")))
    rows = rows.select(order.tolist()).rename("retain")  # candidates first: each model sees half of them and half of the others
    halves = [subsets(n, shadows, seed=seed + i, paired=i == 0) for i, n in enumerate((candidates, len(rows) - candidates))]
    pool = train(plan, model, modality, rows, torch.cat(halves, 1), seed=seed, work=work)
    forget = pool.trained_on.clone()
    forget[:, candidates:] = False
    unlearned_pool = unlearn(method, pool, modality, rows, forget, seed=seed, work=work)
    item_margins = margins(unlearned_pool, modality, rows.select(range(candidates))).cpu().double().numpy()
    unlearned = pool.trained_on[:, :candidates].numpy()
    ratio = left_out(item_margins, unlearned, ~unlearned, FEW, form)
    summary_scores = summary(ratio[unlearned], ratio[~unlearned])
    by_item = item_accuracy(ratio, unlearned, ~unlearned)
    area = auc(-item_margins[unlearned], -item_margins[~unlearned])
    return {
        "accuracy": summary_scores.pop("balanced_accuracy"),
        **summary_scores,
        "item_accuracy_p95": float(np.nanquantile(by_item, 0.95)),
        "population_auc": max(area, 1 - area),  # either side of the threshold may give a row away
    }

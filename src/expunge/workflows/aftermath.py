"""What really happened in a run: why weights did not change, and whether the rows to forget are still known at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from expunge.core.capabilities import Categorical, offers
from expunge.core.modality import Modality
from expunge.core.parts import Objective
from expunge.core.plan import Plans
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.engine import identity
from expunge.engine.run_state import RunState, evaluating
from expunge.engine.shared import shared
from expunge.evaluation.observation import few

ROWS = 32  # rows to forget whose loss is compared
SIZE = 1 << 10  # bytes that a number with its key takes, about
RISE = 0.1  # nats: below it, an answer has lost less than a tenth of its probability
KNOWN = 0.25  # probability of a label from which on a row counts as known


def forget_loss(model: nn.Module, modality: Modality, forget: Rows | None) -> float | None:
    """The mean loss of some rows to forget; None where there are none, where it is not finite, and where it is no log-probability."""
    if forget is None or not len(forget) or not offers(modality, Categorical):
        return None
    rows = forget.select(few(len(forget), ROWS))
    with evaluating(model), torch.no_grad():
        loss = float(modality.forward(model, [rows])[0].loss.mean().mean())
    return loss if math.isfinite(loss) else None


def loss_before(model: nn.Module, modality: Modality, forget: Rows | None, known: Mapping[str, str]) -> float | None:
    """`forget_loss` of the model that a run starts from: in a block of `sharing` it is computed once for each model and its rows.

    Args:
        known: what identifies the model, see `identity.of_model`.
    """
    results = shared()
    if results is None or forget is None:
        return forget_loss(model, modality, forget)
    key = digest(["forget_loss", known, identity.of_setting(model), modality.about(), identity.of_rows(forget)])
    if (kept := results.get(key)) is None:
        results.put(key, kept := [forget_loss(model, modality, forget)], size=SIZE)
    loss: float | None = kept[0]
    return loss


def still_known(before: float | None, after: float | None) -> list[str]:
    """A warning where rows that were known before a run are known as well after it."""
    if before is None or after is None or math.exp(-before) < KNOWN or after >= before + RISE:
        return []
    return [
        f"the rows to forget are still known: their mean loss is {after:.3g}, and it was {before:.3g} before (a rise of less than {RISE:g} "
        f"is no removal); try more epochs, a higher learning rate, or another method"
    ]


def unchanged(run: RunState, plans: Plans) -> str:
    """Why the weights did not change, as the sentence of an error."""
    start, steps = "the weights did not change", run.cost.steps
    warning = run.warnings[-1] if run.warnings else ""
    trained = [plan.train for plan in plans if isinstance(plan.action, Objective)]
    if not trained:
        return f"{start}: {warning or 'the method found nothing to change'}"
    reason = str(run.log[-1]["ended"]) if run.log else ""
    if warning and reason.startswith("not finite"):
        return f"{start}: {warning}"
    if reason not in ("", "done"):
        when = f"after {steps} step{'' if steps == 1 else 's'}" if steps else "before the first step"
        return f"{start}: the run ended {when}, because of its stop rule ({reason})"
    if not steps or all(train.lr == 0 for train in trained):
        return f"{start}: is the learning rate or the number of steps 0?" + (f" ({warning})" if warning else "")
    return f"{start} in {steps} steps: all gradients were 0, or too small to move a weight" + (f" ({warning})" if warning else "")

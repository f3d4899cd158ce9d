"""LLMU: gradient ascent on the forget answers, unrelated answers to their questions, and an unchanged model on normal rows.

The unrelated answers teach the model what to say instead, so that less ascent is enough. Training stops once the forget loss exceeds
a limit.

Equation: L = 0.5 mean_i (1/T_i) log p(y_i|x_i) - mean_i mean_k (1/T_k) log p(u_k|x_i) - mean over retain positions of sum_v p_ref(v) log
  p(v); u_1..u_K are answers of retain rows, the same for the whole batch; T: labels
Source: Yao et al. 2023, arXiv 2310.10683
Needs: forget, retain; the reference
Cost: one forward and backward of forget rows, K mismatched rows each and retain rows, and one reference forward of the retain rows a step
Differs: unrelated answers come from the retain rows, not from TruthfulQA; padding does not count; the stop rule tests the loss itself over
  all forget rows after each epoch, while the authors' code tests its negative, which never stops a run
Status: not shown
"""

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector, Stop
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import Step, View
from expunge.methods.terms import RowAscent, RowNLL, Whole


@part
class MatchReference(Objective):
    """Cross-entropy from the reference to the model at all positions of normal rows. Its gradient is that of KL(reference || model)."""

    reads = frozenset({"normal"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("normal")
        reference, current = step.reference(rows).log_probs, step.now(rows).log_probs
        return -step.mean(reference.map(lambda log_probs: (log_probs.exp() * current.values).sum(-1)), rows)


@part
class Mismatch(Selector):
    """Pairs each forget prompt with unrelated answers. Every step draws the answers once for the whole batch."""

    when = "step"
    draws: int = hp(5, "unrelated answers per step", ge=1)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Categorical})
    gives = frozenset({"mismatch"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, pool = view.forget, view.whole_set("retain")["answer_text"]
        answers = [pool[i] for i in torch.randint(len(pool), (self.draws,), generator=view.rng()).tolist()]
        repeated = rows.select([i for i in range(len(rows)) for _ in answers])
        return {**sets, "mismatch": view.modality.relabel(repeated, answers * len(rows), "mismatch")}


@part
class Gone(Stop):
    """Stops once the mean loss of the forget rows exceeds a limit."""

    most: float = hp(100.0, "mean loss of the forget rows, in nats a label, above which training stops", gt=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def stop(self, view: View) -> str | None:
        loss = float(torch.cat([view.now(rows).loss.mean() for rows in view.batches("forget", 32)]).mean())
        return f"the forget loss is {loss:.1f}, beyond {self.most:g}" if loss > self.most else None


def plan() -> Plan:
    return Plan(
        0.5 * RowAscent() + RowNLL("mismatch") + MatchReference(),
        train=Train(epochs=0, steps=1000, lr=2e-6, batch_size=2),
        selectors=(Whole("retain", "normal"), Mismatch()),
        stop_rules=(Gone(),),
    )

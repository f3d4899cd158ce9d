"""Cross-entropy unlearning (CE-U): train each label to forget towards the model's own distribution with that label taken out.

The push fades as the label's probability goes to 0, where the push of gradient ascent grows.

Equation: L = mean_t -sum_v q_t(v) log p_t(v);  q_t = sg softmax(z_t with z_t(y_t) = -inf); without the first n labels of each answer
Source: Yang 2025, arXiv 2503.01224
Needs: forget
Cost: one forward and backward of the forget rows a step
Differs: nothing
Status: reproduced
"""

import math

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Packed
from expunge.core.view import State, Step, View
from expunge.functional.packed import lowered, places


@part
class CEU(Objective):
    """Cross-entropy to the model's distribution without the label, from label n on."""

    n: int = hp(1, "first labels of each answer that are left alone", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def begin(self, view: View) -> State:
        if all(view.modality.counts(view.forget.select([i]))["labels"] <= self.n for i in range(len(view.forget))):
            raise UserError(f"no answer to forget has more than {self.n} labels, and the first {self.n} are left alone: give n = 0")
        return {}

    def loss(self, step: Step) -> Tensor:
        now = step.now(step.forget)
        target = lowered(now.log_probs.values.detach(), now.labels, math.inf)
        return self._tail(step, now.log_probs.map(lambda d: -(target * d).sum(-1)))

    def _tail(self, step: Step, x: Packed) -> Tensor:
        """Mean over the labels that are not left alone; an answer of n labels or fewer has none."""
        counted = places(x.row, x.lengths) >= self.n
        kept = x.map(lambda v: torch.where(counted, v, 0.0))
        batch = step.sets["forget"]
        left = sum(max(step.modality.counts(batch.select([i]))["labels"] - self.n, 0) for i in range(len(batch)))
        return step.mean(kept, step.forget) * (step.count(step.forget) / max(left, 1))


def plan() -> Plan:
    return Plan(CEU(), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

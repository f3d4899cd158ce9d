"""Cross-entropy unlearning (CE-U): train each label to forget towards the model's own distribution without that label.

The push fades as the label's probability approaches 0; the push of gradient ascent grows instead.

Equation: L = mean_t -sum_v q_t(v) log p_t(v);  q_t = sg softmax(z_t with z_t(y_t) = -inf); without the first n labels of each answer
Source: Yang 2025, arXiv 2503.01224
Needs: forget
Cost: one forward and backward of the forget rows a step
Differs: nothing
Status: shown
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

    n: int = hp(1, "number of first labels of each answer that the loss leaves out", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def begin(self, view: View) -> State:
        if all(view.modality.counts(view.forget.select([i]))["labels"] <= self.n for i in range(len(view.forget))):
            raise UserError(f"no answer to forget has more than {self.n} labels, and the loss leaves out the first {self.n}: set n to 0")
        return {}

    def loss(self, step: Step) -> Tensor:
        output = step.now(step.forget)
        target = lowered(output.log_probs.values.detach(), output.labels, math.inf)
        return self._mean_from_n(step, output.log_probs.map(lambda logp: -(target * logp).sum(-1)))

    def _mean_from_n(self, step: Step, losses: Packed) -> Tensor:
        """Mean over the labels from label n on; an answer of n labels or fewer adds none."""
        counted = places(losses.row, losses.lengths) >= self.n
        masked = losses.map(lambda v: torch.where(counted, v, 0.0))
        batch = step.sets["forget"]
        label_count = sum(max(step.modality.counts(batch.select([i]))["labels"] - self.n, 0) for i in range(len(batch)))
        return step.mean(masked, step.forget) * (step.count(step.forget) / max(label_count, 1))


def plan() -> Plan:
    return Plan(CEU(), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

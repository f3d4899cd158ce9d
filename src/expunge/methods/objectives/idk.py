"""I don't know (IDK, preference optimization in TOFU): train the questions to forget on refusals, together with ordinary retain rows.

The method forgets by replacement: it does not push the old answer down, but pulls up a refusal that each step draws anew.

Equation: L = mean over the labels of both halves together of -log p(y_t | x, y_<t);  halves: (x_forget, refusal) and retain pairs
Source: Maini et al. 2024 (TOFU), arXiv 2401.06121
Needs: forget (questions), retain, alternate answers (refusals)
Cost: one forward and backward of as many refusals and retain rows as the batch has rows
Differs: the one mean is written as two terms with a common denominator, so that each half has a role and a weight; the value is the same
Status: undecided
"""

from typing import Literal

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import Substitute


@part
class Half(Objective):
    """One half's share of the mean loss over the labels of both: long retain answers make short refusals count less."""

    over: Literal["substitute", "retain"]
    reads = frozenset({"substitute", "retain"})
    requires = frozenset({Categorical})

    @property
    def role(self) -> str:
        return "forget" if self.over == "substitute" else "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        label_count = sum(step.count(step.rows(name)) for name in self.reads)
        return -step.mean(step.now(rows).target_logp, rows) * (step.count(rows) / label_count)


def plan() -> Plan:
    return Plan(
        Half("substitute") + Half("retain"),
        train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01),
        selectors=(Substitute(),),
    )

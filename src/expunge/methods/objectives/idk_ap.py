"""Refusal tuning with answer preservation (IDK+AP): say "I don't know" on the rows to forget, and prefer the true answer on retain rows.

Plain refusal tuning makes a model refuse everything. A preference for the true answer over the refusal on retain rows prevents that.

Equation: L = NLL(refusal | x_forget) - (1/beta) mean_i log sigmoid(beta (log p(y_i|x_i) - log p(refusal_i|x_i))) over retain rows i;
  log p sums over labels
Source: Yuan et al. 2024, arXiv 2410.08109
Needs: forget, retain, alternate answers; no reference
Cost: one forward and backward a step of the refusals to forget rows, and of retain rows once with their answers and once with refusals
Differs: nothing
Status: undecided
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import Substitute


@part
class Refuse(Objective):
    """Negative log-likelihood of the refusals, averaged over all their labels."""

    reads = frozenset({"substitute"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows("substitute")
        return -step.mean(step.now(rows).target_logp, rows)


@part
class Preserve(Objective):
    """Preference on retain rows: the true answer wins, the refusal loses."""

    beta: float = hp(0.1, "inverse temperature", gt=0)
    reads = frozenset({"retain", "refused"})
    requires = frozenset({Categorical})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        margin = step.now(step.retain).target_logp.sum() - step.now(step.rows("refused")).target_logp.sum()
        return -(1 / self.beta) * step.mean(logsigmoid(self.beta * margin), step.retain)


def plan() -> Plan:
    selectors = (Substitute(), Substitute("retain", "refused"))
    return Plan(Refuse() + Preserve(), train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=selectors)

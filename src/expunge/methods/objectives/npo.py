"""Negative preference optimization (NPO): treat the forget answers as the losing half of a preference pair without a winner.

The loss is bounded where gradient ascent is not. A row gets less weight the less likely the model finds it compared with the reference.

Equation: L = -(2/beta) mean_i log sigmoid(-beta (log p(y_i|x_i) - log p_ref(y_i|x_i))) + NLL(retain); log p sums over labels
Source: Zhang et al. 2024, arXiv 2404.05868
Needs: forget, retain; the reference's log-probs of the forget rows, computed once before the first step
Cost: one forward and backward of forget and retain rows a step
Differs: cached numbers replace the second model as the reference; their values are the same
Status: undecided
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import NLL


@part
class NPO(Objective):
    """The forget term of NPO."""

    beta: float = hp(0.1, "inverse temperature; near 0 the term is gradient ascent on summed log-probs", gt=0)
    reads = frozenset({"forget"})
    needs = frozenset({Need.REFERENCE_LOGP})

    def loss(self, step: Step) -> Tensor:
        gain = step.reference(step.forget).loss.sum() - step.now(step.forget).loss.sum()
        return -(2 / self.beta) * step.mean(logsigmoid(-self.beta * gain), step.forget)


def plan() -> Plan:
    return Plan(NPO() + NLL("retain"), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

"""SimNPO: negative preference optimization without a reference, on log-probs averaged over the answer.

Long and short answers count alike. A row stops counting once its own loss is high, not once its loss has risen enough.

Equation: L = -(2/beta) mean_i log sigmoid(beta (nll_i - delta)) + NLL(retain);  nll_i = -(1/|y_i|) sum_t log p(y_it | x_i, y_i,<t)
Source: Fan et al. 2024, arXiv 2410.07163
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: nothing in the loss; the paper's margin gamma is beta * delta here, and its weight of the forget term (0.125 with the default
  beta 4.5, both for 10 % of TOFU) is forget_weight; for 5 % of TOFU use beta 2.5 and forget_weight 0.1375
Status: shown
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import NLL


@part
class SimNPO(Objective):
    """The forget term of SimNPO."""

    beta: float = hp(4.5, "inverse temperature; near 0 the term is ascent on the mean loss of each row", gt=0)
    delta: float = hp(0.0, "loss of a row, in nats a label, at which it has half its largest weight")
    reads = frozenset({"forget"})

    def loss(self, step: Step) -> Tensor:
        nll = step.now(step.forget).loss.mean()
        return -(2 / self.beta) * step.mean(logsigmoid(self.beta * (nll - self.delta)), step.forget)


def plan() -> Plan:
    return Plan(0.125 * SimNPO() + NLL("retain"), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

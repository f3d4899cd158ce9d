"""FLAT: widen an f-divergence between refusals and the answers to forget, with no data but rows to forget.

The loss uses probabilities, not log-probs. A forgotten answer therefore has no gradient left, and the loss is bounded.

Equation: L = mean_i -g(P(e_i)) + mean_i f(g(P(y_i)));  P(a) = (1/|a|) sum_t p(a_t | x_i, a_<t); e: refusal, y: answer to forget;
  tv: g tanh(v)/2, f u; kl: g v, f exp(u-1); js: g log(2/(1+exp(-v))), f -log(2-exp(u)); pearson: g v, f u^2/4 + u
Source: Wang et al. 2025, arXiv 2410.11143
Needs: forget, alternate answers (refusals)
Cost: one forward and backward of forget and refusal rows a step; mean_first adds a forward where the batch is accumulated
Differs: refusals answer the forget question; the authors' collator pairs them with other inputs. g and f act on each row (the paper's
  risk); with mean_first they act on the batch mean, as in the code. P divides by the number of the answer's labels: answers are packed, so
  the code's division by the padded length has no counterpart
Status: not shown
"""

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import Step
from expunge.functional.divergences import DIVERGENCES, Name
from expunge.methods.terms import Substitute


@part
class FLAT(Objective):
    """The variational bound of a divergence between substitute answers and answers to forget, negated."""

    divergence: Name = hp("tv", "f-divergence to widen; kl forgets most gently, pearson and js hardest")
    mean_first: bool = hp(False, "average probabilities over the batch before the divergence, as the authors' code does")
    reads = frozenset({"forget", "substitute"})
    requires = frozenset({Categorical})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.BATCH_MEANS}) if self.mean_first else frozenset()

    def loss(self, step: Step) -> Tensor:
        divergence = DIVERGENCES[self.divergence]
        refusals, answers = step.rows("substitute"), step.forget
        p_refusal, p_answer = self._probability(step, refusals), self._probability(step, answers)
        if self.mean_first:
            return divergence.penalty(step.mean(p_answer, answers)) - divergence.activation(step.mean(p_refusal, refusals))
        return step.mean(divergence.penalty(p_answer), answers) - step.mean(divergence.activation(p_refusal), refusals)

    def _probability(self, step: Step, rows: Rows) -> Tensor:
        """Mean probability of the labels of each row, (rows,)."""
        return step.now(rows).target_logp.map(lambda x: x.exp()).mean()


def plan() -> Plan:
    return Plan(FLAT(), train=Train(epochs=5, lr=1e-5, batch_size=64, warmup=1, weight_decay=0.01), selectors=(Substitute(),))

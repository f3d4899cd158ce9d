"""Direct preference optimization with refusals (IdkDPO): prefer a refusal to the answer to forget, and train on retain rows as usual.

Each step draws a new refusal. The margin between refusal and answer is measured against the reference.

Equation: L = -(2/beta) mean_i log sigmoid(beta (r(w_i) - r(y_i))) + NLL(retain);  r(a) = log p(a|x_i) - log p_ref(a|x_i);
  w: refusal, y: answer to forget; log p sums over labels
Source: Zhang et al. 2024, arXiv 2404.05868 (as a baseline); Rafailov et al. 2023, arXiv 2305.18290; Maini et al. 2024, arXiv 2401.06121
Needs: forget, retain, alternate answers (refusals); the reference: cached log-probs of the forget rows, a forward of the drawn refusals
Cost: one forward and backward of forget, refusal and retain rows a step, and one forward of the refusals by the reference
Differs: from TOFU's code, which lacks the factor 2/beta and does not run; this is the form that NPO compares with
Status: not shown
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.core.view import Step
from expunge.methods.terms import NLL, Substitute


@part
class DPO(Objective):
    """The preference term: the substitute answer wins, the answer to forget loses."""

    beta: float = hp(0.1, "inverse temperature: how soon a won pair stops counting", gt=0)
    reads = frozenset({"forget", "substitute"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE_LOGP})

    def loss(self, step: Step) -> Tensor:
        won, lost = step.rows("substitute"), step.forget
        if len(won) != len(lost):
            raise UserError("a preference pair has one winner, but the rows differ in number: leave `draws` at 1")
        margin = self._gain(step, won) - self._gain(step, lost)
        return -(2 / self.beta) * step.mean(logsigmoid(self.beta * margin), lost)

    def _gain(self, step: Step, rows: Rows) -> Tensor:
        """Log-probability of each answer minus that of the reference, (rows,), in nats."""
        return step.now(rows).target_logp.sum() - step.reference(rows).target_logp.sum()


def plan() -> Plan:
    return Plan(
        DPO() + NLL("retain"),
        train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01),
        selectors=(Substitute(),),
    )

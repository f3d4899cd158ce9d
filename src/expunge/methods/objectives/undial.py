"""UNDIAL: self-distillation from the model with the logit of each forget label lowered.

The target is a fixed, valid distribution, so training converges where ascent would run away.

Equation: L = mean_t -sum_v q_t(v) log p_t(v);  q_t = softmax(z_ref,t - b onehot(y_t))
Source: Dong et al. 2024, arXiv 2402.10052
Needs: forget; the reference
Cost: one forward and backward of the forget rows a step, and one forward of them by the reference
Differs: the loss is averaged over answer labels; the code of open-unlearning averages over all positions, and lowers an arbitrary class
  where there is no label. The paper trains a LoRA adapter (rank 8, alpha 16): use --lora 8
Status: undecided
"""

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.functional.packed import lowered


@part
class UNDIAL(Objective):
    """Cross-entropy to the reference's distribution with the label's logit lowered."""

    b: float = hp(10.0, "amount by which the label's logit is lowered before the softmax", ge=0)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})

    def loss(self, step: Step) -> Tensor:
        output = step.now(step.forget)
        target = lowered(step.reference(step.forget).log_probs.values, output.labels, self.b)
        return step.mean(output.log_probs.map(lambda logp: -(target * logp).sum(-1)), step.forget)


def plan() -> Plan:
    return Plan(UNDIAL(), train=Train(epochs=10, lr=1e-4, batch_size=32, warmup=1, weight_decay=0.01))

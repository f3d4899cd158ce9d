"""NegGrad: gradient ascent with settings for image classification, and a rule that stops once the rows are forgotten.

Ascent has no minimum at which it would settle. A small learning rate, few epochs and a target accuracy limit the damage to the model.

Equation: L = mean over forget labels of log p(y | x); stop after the epoch in which accuracy(forget) <= target
Source: Golatkar et al. 2020, arXiv 1911.04933; settings as in Fan et al. 2024 (SalUn), arXiv 2310.12508
Needs: forget
Cost: one forward and backward of the forget rows a step; one forward of them an epoch for the stop rule
Differs: the published runs have no stop rule; with the default target the rule ends a run once the model gets no forget row right. The
  learning rate is tuned for each case, from 1e-5 to 1e-4
Status: case invalid
"""

from dataclasses import replace

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Stop
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.methods.objectives import ga
from expunge.methods.terms import hits


@part
class NegGradStop(Stop):
    """Stops once the accuracy on the forget rows is at or below a target."""

    target: float = hp(0.0, "accuracy on the forget rows at which training stops", ge=0, le=1)
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def stop(self, view: View) -> str | None:
        accuracy = float(hits(view, "forget").mean())
        return f"accuracy on the rows to forget is {accuracy:.3f}, at most {self.target:g}" if accuracy <= self.target else None


def plan() -> Plan:
    train = Train(epochs=5, lr=1e-4, batch_size=256, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant")
    return replace(ga.plan(), train=train, stop_rules=(NegGradStop(),))

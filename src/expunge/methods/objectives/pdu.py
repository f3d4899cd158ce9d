"""Primal-dual unlearning (PDU): forget by flattening the logits, and keep the retain loss below a bound with a dual variable.

Flat logits carry no information about the answer. The dual variable grows while the retain loss is above its bound and shrinks while it is
below.

Equation: L = mean over forget labels of (max_v z_v - mean_v z_v)^2 + lambda (NLL(retain) - eps);
  after warm-up, once a step: lambda <- max(0, lambda + step (NLL(retain) - eps))
Source: Entesari et al. 2025, arXiv 2506.05314
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: logits are those that predict the labels, while the authors' code does not shift them; lambda moves once an optimizer step, not
  once a micro-batch; the reported loss leaves out lambda eps, which has no gradient; the retain loss is that of the batch, not of an epoch
Status: shown
"""

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.methods.terms import NLL


@part
class Flatten(Objective):
    """Squared distance of the largest logit from the mean logit, averaged over forget labels."""

    reads = frozenset({"forget"})
    requires = frozenset({Categorical})

    def loss(self, step: Step) -> Tensor:
        spread = step.now(step.forget).logits.map(lambda logits: (logits.amax(-1) - logits.mean(-1)).square())
        return step.mean(spread, step.forget)


@part
class Dual(Objective):
    """Turns an objective into a constraint: its weight is a dual variable that grows while the objective is above its bound."""

    inner: Objective = NLL("retain")
    start: float = hp(100.0, "dual variable at the start", ge=0)
    rate: float = hp(5.0, "step size of the dual variable", ge=0)
    bound: float = hp(0.3, "upper bound of the constrained loss; set it slightly above the loss at the start")
    warm: int = hp(5, "warm-up: epochs before the dual variable begins to move", ge=0)

    @property
    def reads(self) -> frozenset[str]:
        return self.inner.reads

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def hook_points(self) -> tuple[str, ...]:
        return self.inner.hook_points

    @property
    def role(self) -> str:
        return self.inner.role

    def begin(self, view: View) -> State:
        return {"dual": torch.tensor(self.start)}

    def loss(self, step: Step) -> Tensor:
        value = self.inner.loss(step.at("inner", self.inner))
        step.note(value=value)
        return step.state["dual"].to(value.device) * value

    def after(self, step: Step) -> State:
        if step.epoch < self.warm:
            return step.state
        excess = step.noted("value").to(step.state["dual"]) - self.bound
        return {"dual": (step.state["dual"] + self.rate * excess).clamp_min(0)}


def plan() -> Plan:
    return Plan(Flatten() + Dual(), train=Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01))

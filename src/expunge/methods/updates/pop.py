"""POP: a step of ascent on each request, with a correction for what later training on the remaining data would have changed.

If the forget rows had been left out, later training would have continued from other weights. Plain ascent ignores this. The correction
accounts for it, is zero where the model has not moved, and never trains the retain rows beyond their level at the start.

Equation: theta <- theta + eta (g_f + lambda (g_r(theta_0) - g_r(theta))), g_f and g_r the gradients of NLL on forget and retain rows, g_f
  at theta or (`target frozen`) at theta_0, the model before; the retain term is lambda (L_r(theta) - <g_r(theta_0), theta>); the end is
  where RMA, the mean probability of the tokens to forget given all tokens before them, equals that of unseen text
Source: Lee, Rim, Choi and Choo 2024, arXiv 2406.14091
Needs: forget, retain (text like that of training); holdout with `rma 0`; weights in float32; as an update any objective with a retain term
Cost: one forward and backward of forget and two of retain rows a step, and a copy of the weights; with `origin whole` one of retain rows a
  step, one more of all of them once, and one stored gradient
Differs: we do not know how the paper estimates the correction: this one is exact for convex losses (with a frozen target and lambda in
  proportion to the rows it ends where retraining does), and of first order otherwise; lambda, learning rate and batch size are ours, and so
  is the threshold of RMA where it is not measured
Status: shown
"""

from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Stop, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.methods.gradients import Gradient, moved, total
from expunge.methods.terms import NLL, Ascent


@part
class Anchor(Update):
    """Subtract from the retain gradient its value at the start, and optionally keep the forget gradient of the start."""

    target: Literal["live", "frozen"] = hp("live", "weights at which the forget gradient is taken: the current ones, or those at the start")
    origin: Literal["batch", "whole"] = hp(
        "batch", "rows of the gradients at the start: those of the batch, or all rows, computed once (whole)"
    )

    def roles(self) -> frozenset[str]:
        return frozenset({"retain", *self._frozen})

    @property
    def _frozen(self) -> tuple[str, ...]:
        return ("forget",) if self.target == "frozen" else ()

    def begin(self, view: View) -> State:
        if self.origin == "batch":
            return {str(i): p.detach().clone() for i, p in enumerate(view.params)}
        return {f"{role}{i}": g for role in self.roles() for i, g in enumerate(view.grad(role))}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        def at_start(role: str) -> list[Tensor]:
            if self.origin == "whole":
                return [step.state[f"{role}{i}"].to(p.device) for i, p in enumerate(grads.params)]
            with moved(grads.params, (step.state[str(i)].to(p.device) - p.detach() for i, p in enumerate(grads.params))):
                return grads(role)[1]

        def anchored(*roles: str) -> Gradient:
            live = [r for r in roles if r not in self._frozen]
            gradients = [grads(*live)] if live else []  # first, because this evaluation updates the running statistics
            gradients += [(torch.zeros(()), at_start(r)) for r in roles if r in self._frozen]
            gradients += [(torch.zeros(()), [-g for g in at_start("retain")])] if "retain" in roles else []
            return total(gradients)

        return anchored


@part
class Remnant(Stop):
    """Stop once the labels to forget are as improbable as the labels of unseen rows."""

    rma: float = hp(0.25, "mean probability of the forget labels at which the run stops; 0: the holdout rows' at the start", ge=0, le=1)
    requires = frozenset({Categorical})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget"} if self.rma else {"forget", "holdout"})

    def begin(self, view: View) -> State:
        return {"rma": torch.tensor(self.rma) if self.rma else remnant(view, "holdout")}

    def stop(self, view: View) -> str | None:
        now = remnant(view, "forget")
        return f"a remnant memorization accuracy of {float(now):.3f}" if now <= view.state["rma"] else None


def remnant(view: View, name: str) -> Tensor:
    """Remnant memorization accuracy of a set: the mean over its rows of the mean probability of a row's labels."""
    return torch.cat([view.now(rows).target_logp.map(torch.exp).mean().cpu() for rows in view.batches(name, 32)]).mean()


def plan() -> Plan:
    train = Train(epochs=20, lr=5e-5, batch_size=32, schedule="constant")
    return Plan(Ascent() + NLL("retain"), train=train, updates=(Anchor(),), stop_rules=(Remnant(),))

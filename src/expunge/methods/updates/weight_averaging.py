"""Weight averaging: forget as usual, and end with the mean of the weights that the last part of the run went through.

A mean of nearby solutions lies where the loss is flatter than at any of them, for the price of one more copy of the weights.

Equation: theta = mean of theta_s over the steps s = s0, s0 + m, s0 + 2m, ...
Source: Fan et al. 2025, arXiv 2502.05374; weight averaging itself: Izmailov et al. 2018, arXiv 1803.05407
Needs: forget, retain; as an update any objective
Cost: nothing but one copy of the weights that move
Differs: running statistics (batch norm) are averaged with the weights; no warm-up, which takes the first tenth of the steps there; defaults
  are those for WMDP
Status: faithful
"""

import torch

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.engine.weights import put, trainable, weights_of
from expunge.methods.terms import NLL, BatchNPO

MEAN = "mean/"


@part
class Average(Update):
    """A uniform running mean of the weights, which the stage ends with."""

    start: int = hp(100, "optimizer steps until the first snapshot", ge=1)
    every: int = hp(5, "optimizer steps from one snapshot to the next", ge=1)

    def begin(self, view: View) -> State:
        return {"steps": torch.tensor(0)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        state = {**step.state, "steps": step.state["steps"] + 1}
        late = int(state["steps"]) - self.start
        if late >= 0 and late % self.every == 0:
            for name, now in weights_of(step.model, trainable(step.model)).items():
                if now.is_floating_point():
                    exact = now.to(torch.promote_types(now.dtype, torch.float32))
                    old = state.get(MEAN + name, exact).to(now.device)
                    state[MEAN + name] = old + (exact - old) / (late // self.every + 1)
        return state

    def end(self, view: View) -> None:
        means = {name.removeprefix(MEAN): mean for name, mean in view.state.items() if name.startswith(MEAN)}
        if not means:
            view.warn(
                f"no weights were averaged: there were {int(view.state['steps'])} steps, and the first snapshot is after {self.start}"
            )
        put(view.model, means)


def plan() -> Plan:
    train = Train(epochs=0, steps=125, lr=5.5e-6, batch_size=4, max_grad_norm=1.0)
    return Plan(BatchNPO(0.05) + 2.0 * NLL("retain"), train=train, updates=(Average(),))

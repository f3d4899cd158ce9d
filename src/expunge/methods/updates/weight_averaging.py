"""Weight averaging: forget as usual, and end with the mean of the weights over the last part of the run.

A mean of nearby solutions lies where the loss is flatter than at any of them, for the price of one more copy of the weights.

Equation: theta = mean of theta_s over the steps s = s0, s0 + m, s0 + 2m, ...; L = -(2/beta) mean_i log sigmoid(beta (l_i - l_ref,i)) +
  lambda mean_i l_i, l_i: mean NLL of row i's labels
Source: Fan et al. 2025, arXiv 2502.05374; weight averaging itself: Izmailov et al. 2018, arXiv 1803.05407
Needs: forget, retain; as an update any objective
Cost: one copy of the trainable weights and no further computation
Differs: running statistics (batch norm) are averaged with the weights; there is no warm-up, which takes the first tenth of the steps in the
  authors' code; defaults are the authors' for WMDP, who accumulate four batches of one, so that NPO is that of each row's mean loss
  (`batch_mean true`: NPO of the mean loss of a batch, as in `sam`)
Status: undecided
"""

from typing import Annotated

import torch

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.engine.weights import put, trainable, weights_of
from expunge.methods.terms import npo_on_means

MEAN = "mean/"


@part
class Average(Update):
    """Keep a uniform running mean of the weights, and end the stage with this mean."""

    start: int = hp(100, "optimizer steps before the first snapshot", ge=1)
    every: int = hp(5, "optimizer steps from one snapshot to the next", ge=1)

    def begin(self, view: View) -> State:
        return {"steps": torch.tensor(0)}

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads.call

    def after(self, step: Step) -> State:
        state = {**step.state, "steps": step.state["steps"] + 1}
        steps_past_start = int(state["steps"]) - self.start
        if steps_past_start >= 0 and steps_past_start % self.every == 0:
            for name, weight in weights_of(step.model, trainable(step.model)).items():
                if weight.is_floating_point():
                    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
                    mean = state.get(MEAN + name, exact).to(weight.device)
                    state[MEAN + name] = mean + (exact - mean) / (steps_past_start // self.every + 1)
        return state

    def end(self, view: View) -> None:
        means = {name.removeprefix(MEAN): mean for name, mean in view.state.items() if name.startswith(MEAN)}
        if not means:
            view.warn(
                f"no weights were averaged: there were {int(view.state['steps'])} steps, and the first snapshot is after {self.start}"
            )
        put(view.model, means)


def plan(
    batch_mean: Annotated[bool, "NPO of the mean loss of a batch, instead of NPO of each row's mean loss, averaged"] = False,
) -> Plan:
    train = Train(epochs=0, steps=125, lr=5.5e-6, batch_size=4, max_grad_norm=1.0)
    return Plan(npo_on_means(0.05, 2.0, batch_mean), train=train, updates=(Average(),))

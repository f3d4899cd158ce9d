"""Maximizing entropy (ME+GD): pull every next-token distribution on the forget rows toward the uniform distribution.

The loss is bounded, and the method needs no replacement answers. Gradient descent on retain rows preserves the other knowledge.

Equation: L = gamma mean over forget positions of KL(uniform || p(.|x_<t)) + NLL(retain); KL = -log V - (1/V) sum_v log p(v)
Source: Yuan et al. 2024, arXiv 2410.08109
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: positions of prompt and answer count and padding does not, while the authors' code averages over both; `include_prompt false`
  counts answers only. The authors add 1e-12 to each probability inside the logarithm, so that tokens below it have no gradient (`epsilon
  1e-12` does the same)
Status: shown
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.terms import NLL, SetTerm, Whole


@part
class Uniform(SetTerm):
    """KL(uniform || model), averaged over the labels of a set."""

    over: str = "whole"
    epsilon: float = hp(0.0, "number added to each probability inside the logarithm; the authors' code: 1e-12", ge=0)
    requires = frozenset({Categorical})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).log_probs.map(self._divergence), rows)

    def _divergence(self, log_probs: Tensor) -> Tensor:
        if self.epsilon:
            log_probs = torch.logaddexp(log_probs, log_probs.new_tensor(math.log(self.epsilon)))
        return -math.log(log_probs.shape[-1]) - log_probs.mean(-1)


def plan(include_prompt: Annotated[bool, "whether positions of the prompt count too"] = True) -> Plan:
    over, selectors = ("whole", (Whole(),)) if include_prompt else ("forget", ())
    return Plan(
        0.1 * Uniform(over) + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=selectors
    )

"""Maximizing entropy (ME+GD): pull every next-token distribution on the forget rows toward the uniform distribution.

The loss is bounded, and the method needs no replacement answers. Gradient descent on retain rows preserves the other knowledge.

Equation: L = gamma mean over forget positions of KL(uniform || p(.|x_<t)) + NLL(retain); KL = -log V - (1/V) sum_v log p(v)
Source: Yuan et al. 2024, arXiv 2410.08109
Needs: forget, retain
Cost: one forward and backward of forget and retain rows a step
Differs: positions of prompt and answer count and padding does not, while the authors' code averages over both; `include_prompt false`
  counts answers only
Status: faithful
"""

import math
from typing import Annotated

from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import part
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import Step, View
from expunge.methods.terms import NLL


@part
class Whole(Selector):
    """Makes every position of a row a label, including the prompt's but not the first. Rows without a prompt stay as they are."""

    when = "step"
    over: str = "forget"
    into: str = "whole"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.into})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.rows(self.over)
        if "prompt" in rows.columns:
            answers = [[*p[1:], *a] for p, a in zip(rows["prompt"], rows["answer"], strict=True)]
            rows = rows.add(prompt=[p[:1] for p in rows["prompt"]], answer=answers)
        return {**sets, self.into: rows.rename(self.into)}


@part
class Uniform(Objective):
    """KL(uniform || model), averaged over the labels of a set."""

    over: str = "whole"
    requires = frozenset({Categorical})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).log_probs.map(lambda log_probs: -math.log(log_probs.shape[-1]) - log_probs.mean(-1)), rows)


def plan(include_prompt: Annotated[bool, "whether positions of the prompt count too"] = True) -> Plan:
    over, selectors = ("whole", (Whole(),)) if include_prompt else ("forget", ())
    return Plan(
        0.1 * Uniform(over) + NLL("retain"), train=Train(epochs=5, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01), selectors=selectors
    )

"""Adaptive RMU: RMU with a target vector whose length is the mean norm of the block's own outputs, times a factor.

The norm of the outputs grows with depth. A vector of fixed length is too short beyond the first blocks; a vector that follows the norm
works at any block.

Equation: as RMU with c = scale N, N = mean over forget rows of the mean over tokens of |h_ref(x)|
Source: Dang et al. 2025, arXiv 2408.06223
Needs: forget, retain; the reference's hidden states (only the weights that move are stored twice)
Cost: the cost of RMU, and one forward of the forget rows at the start
Differs: N is measured over all forget rows at the start; the authors' code takes the first batch and counts padding. All else as in RMU
Status: not shown
"""

from typing import Annotated

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.methods.objectives.rmu import Hold, Positions, direction, distance, hidden, moving


@part
class AdaptiveSteer(Objective):
    """Pull a block's output on forget rows towards a random vector whose length follows the norm of that output."""

    layer: int = 7
    positions: Positions = "answers"
    scale: float = hp(5.0, "length of the target vector, in mean norms of the output", ge=0)
    reads = frozenset({"forget"})

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def begin(self, view: View) -> State:
        states = [hidden(view.now(rows), self.hook_points[0], self.positions) for rows in view.batches("forget", 32)]
        norm = torch.cat([h.map(lambda v: v.float().norm(dim=-1)).mean() for h in states]).mean().cpu()
        return {"target": self.scale * norm * direction(states[0].values.shape[-1], view.rng())}

    def loss(self, step: Step) -> Tensor:
        return distance(step, step.forget, hidden(step.now(step.forget), self.hook_points[0], self.positions), step.state["target"])


def plan(
    layer: Annotated[int, "block whose output is steered, counted from 0"] = 7,
    positions: Annotated[Positions, "tokens that count: those of the answers, or all"] = "answers",
) -> Plan:
    train = Train(epochs=0, steps=500, lr=5e-5, batch_size=4, schedule="constant")
    return Plan(AdaptiveSteer(layer, positions) + 1200.0 * Hold(layer, positions), train=train, trainable=moving(layer))

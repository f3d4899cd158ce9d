"""Selective representation misdirection (SRMU): RMU that pushes only the dimensions that are active on the forget rows.

Where forget and retain rows have much in common, pushing all dimensions alike harms both or neither. An importance map shows which
dimensions belong to the forget rows, and each of these is pushed with a random sign of its own.

Equation: L = mean |h(x_forget) - c V * I|^2 / d + alpha mean |h(x_retain) - h_ref(x_retain)|^2 / d; V: random signs, drawn once;
  I = phi(v_f, v_r) / max phi, v: mean over tokens and rows of |h|; phi: log(1 + v_f / v_r), max(0, v_f - lambda v_r), or
  v_f v_r / (mean v_f mean v_r); c such that |c V * I| is a set length
Source: Chen et al. 2025, arXiv 2512.16297
Needs: forget, retain; the reference's hidden states (only the weights that move are kept twice)
Cost: that of RMU, and a forward of forget and retain rows at the start; with a moving map one reference forward of the forget rows a step
Differs: reconstructed from descriptions: mean absolute activations, c by the length of RMU's vector, lambda 1, a map that is made once (or
  a moving average over batches), the same moving weights as in RMU; with whole rows the map leaves out the first token, whose activations
  dwarf all others
Status: shown
"""

from typing import Annotated, Literal

import torch
from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import State, Step, View
from expunge.functional.packed import places
from expunge.methods.objectives.rmu import Hold, Positions, distance, hidden, moving

Importance = Literal["ratio", "difference", "product", "uniform"]
TINY = 1e-8


def importance(forget: Tensor, retain: Tensor, kind: Importance = "ratio", discount: float = 1.0) -> Tensor:
    """How specific each dimension is to the forget rows.

    Args:
        forget: Mean activations of the forget rows, (width,).
        retain: Mean activations of the retain rows, (width,).
        kind: The formula phi of the card; `uniform` gives every dimension the same importance.
        discount: lambda of `difference`.

    Returns:
        Importance from 0 to 1, (width,).
    """
    raw = {
        "ratio": lambda: (1 + forget / (retain + TINY)).log(),
        "difference": lambda: (forget - discount * retain).relu(),
        "product": lambda: forget * retain / (forget.mean() * retain.mean() + TINY),
        "uniform": lambda: torch.ones_like(forget),
    }[kind]()
    return raw / (raw.max() + TINY)


def steering_target(signs: Tensor, weights: Tensor, length: float) -> Tensor:
    """The vector that outputs are steered to: signs times importance, (width,), scaled to a length.

    It is 0 where no dimension has any importance.
    """
    signed = signs * weights
    return length * signed / signed.norm().clamp_min(TINY)


@part
class SelectiveSteer(Objective):
    """Steers a block's output on forget rows to a vector that is large only in dimensions specific to these rows."""

    layer: int = 7
    positions: Positions = "answers"
    length: float = hp(6.5, "length of the vector that the output is steered to", ge=0)
    importance: Importance = hp("ratio", "how the importance of a dimension is computed; uniform: all count alike")
    discount: float = hp(1.0, "lambda: share of the retain activations that `difference` subtracts", ge=0)
    signed: bool = hp(False, "use absolute mean activations instead of mean absolute activations")
    inertia: float = hp(1.0, "share of the mean activations that each step keeps; 1: computed once, over all rows", ge=0, le=1)
    reads = frozenset({"forget", "retain"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.REFERENCE}) if self.inertia < 1 else frozenset()

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def begin(self, view: View) -> State:
        means = {name: self._mean([view.now(rows) for rows in view.batches(name, 32)]) for name in ("forget", "retain")}
        signs = 2.0 * torch.randint(2, means["forget"].shape, generator=view.rng()) - 1
        return {**means, "signs": signs.to(means["forget"])}

    def loss(self, step: Step) -> Tensor:
        state = step.state
        weights = importance(state["forget"].abs(), state["retain"].abs(), self.importance, self.discount)
        target = steering_target(state["signs"], weights, self.length)
        return distance(step, step.forget, hidden(step.now(step.forget), self.hook_points[0], self.positions), target)

    def after(self, step: Step) -> State:
        if self.inertia == 1:
            return step.state
        batch_means = {name: self._mean([step.reference(step.rows(name))]) for name in ("forget", "retain") if name in step.sets}
        moved = {name: self.inertia * step.state[name].to(mean) + (1 - self.inertia) * mean for name, mean in batch_means.items()}
        return {**step.state, **moved}

    def _mean(self, outputs: list[ModelOutput]) -> Tensor:
        """Mean over tokens of the block's output, or of its absolute value, (width,). With whole rows it skips each first token."""
        activations = []
        for output in outputs:
            h = hidden(output, self.hook_points[0], self.positions)
            values = h.values.float() if self.positions == "answers" else h.values[places(h.row, h.lengths) > 0].float()
            activations.append(values if self.signed else values.abs())
        return torch.cat(activations).mean(0).detach()


def plan(
    layer: Annotated[int, "block whose output is steered, counted from 0"] = 7,
    positions: Annotated[Positions, "tokens that count: those of the answers, or all"] = "answers",
) -> Plan:
    train = Train(epochs=0, steps=150, lr=5e-5, batch_size=4, schedule="constant")
    return Plan(SelectiveSteer(layer, positions) + 1200.0 * Hold(layer, positions), train=train, trainable=moving(layer))

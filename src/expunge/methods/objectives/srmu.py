"""Selective representation misdirection (SRMU): RMU that pushes the dimensions which fire for the rows to forget, and no others.

Where forget and retain rows have much in common, pushing all dimensions alike harms both or neither. An importance map says which of them
are the forget rows' own, and each is pushed with a sign of its own.

Equation: L = mean |h(x_forget) - c V * I|^2 / d + alpha mean |h(x_retain) - h_ref(x_retain)|^2 / d; V: random signs, drawn once;
  I = phi(v_f, v_r) / max phi, v: mean over tokens and rows of |h|; phi: log(1 + v_f / v_r), max(0, v_f - lambda v_r), or
  v_f v_r / (mean v_f mean v_r); c such that |c V * I| is a set length
Source: Chen et al. 2025, arXiv 2512.16297
Needs: forget, retain; the reference's hidden states (only the weights that move are kept twice)
Cost: that of RMU, and a forward of forget and retain rows at the start; with a map that moves a reference forward of the forget rows a step
Differs: reconstructed from descriptions: mean absolute activations, c by the length of RMU's vector, lambda 1, the map made once (or a
  moving average over batches), the weights that move as in RMU; of whole rows the first token, whose activations dwarf all others, is left
  out of the map
Status: faithful
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
    """How much each dimension is the forget rows' own, from 0 to 1, (width,), by the mean activations of both kinds of rows."""
    raw = {
        "ratio": lambda: (1 + forget / (retain + TINY)).log(),
        "difference": lambda: (forget - discount * retain).relu(),
        "product": lambda: forget * retain / (forget.mean() * retain.mean() + TINY),
        "uniform": lambda: torch.ones_like(forget),
    }[kind]()
    return raw / (raw.max() + TINY)


def aim(signs: Tensor, weights: Tensor, length: float) -> Tensor:
    """What outputs are drawn to, (width,): signs times importance, of a set length; nothing where no dimension is important."""
    drawn = signs * weights
    return length * drawn / drawn.norm().clamp_min(TINY)


@part
class SelectiveSteer(Objective):
    """Draw a block's output on forget rows to a vector that is long only where these rows are alone."""

    layer: int = 7
    positions: Positions = "answers"
    length: float = hp(6.5, "length of the vector that the output is drawn to", ge=0)
    importance: Importance = hp("ratio", "what makes a dimension the forget rows' own; uniform: all are")
    discount: float = hp(1.0, "lambda: share of the retain activations that is taken off by `difference`", ge=0)
    signed: bool = hp(False, "sizes of mean activations in the place of mean sizes")
    inertia: float = hp(1.0, "share of the mean activations that stays at each step; 1: those of all rows, found once", ge=0, le=1)
    reads = frozenset({"forget", "retain"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.REFERENCE}) if self.inertia < 1 else frozenset()

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (f"block:{self.layer}",)

    def begin(self, view: View) -> State:
        found = {n: self._mean([view.now(rows) for rows in view.batches(n, 32)]) for n in ("forget", "retain")}
        signs = 2.0 * torch.randint(2, found["forget"].shape, generator=view.rng()) - 1
        return {**found, "signs": signs.to(found["forget"])}

    def loss(self, step: Step) -> Tensor:
        state = step.state
        weights = importance(state["forget"].abs(), state["retain"].abs(), self.importance, self.discount)
        target = aim(state["signs"], weights, self.length)
        return distance(step, step.forget, hidden(step.now(step.forget), self.hook_points[0], self.positions), target)

    def after(self, step: Step) -> State:
        if self.inertia == 1:
            return step.state
        new = {n: self._mean([step.reference(step.rows(n))]) for n in ("forget", "retain") if n in step.sets}
        return {**step.state, **{n: self.inertia * step.state[n].to(v) + (1 - self.inertia) * v for n, v in new.items()}}

    def _mean(self, answers: list[ModelOutput]) -> Tensor:
        """Mean over the tokens of some rows of the block's output or its size, (width,); of whole rows the first tokens are left out."""
        seen = []
        for answer in answers:
            h = hidden(answer, self.hook_points[0], self.positions)
            inner = h.values.float() if self.positions == "answers" else h.values[places(h.row, h.lengths) > 0].float()
            seen.append(inner if self.signed else inner.abs())
        return torch.cat(seen).mean(0).detach()


def plan(
    layer: Annotated[int, "block whose output is steered, counted from 0"] = 7,
    positions: Annotated[Positions, "tokens that count: those of the answers, or all"] = "answers",
) -> Plan:
    train = Train(epochs=0, steps=150, lr=5e-5, batch_size=4, schedule="constant")
    return Plan(SelectiveSteer(layer, positions) + 1200.0 * Hold(layer, positions), train=train, trainable=moving(layer))

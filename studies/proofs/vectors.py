"""The world of people along a line: the original minus a vector, the longer the more it forgets.

A task vector gives the direction, and the step along it is as long as forgetting as far as the retrained model needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from expunge.engine.weights import put, weights_of
from expunge.io.models import Opened
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.language import RATES, arm
from studies.proofs.people import FORGETTING, SIZE, People, PeopleUnit

METHOD = "task_vector"
SHORTEST, LONGEST, HALVINGS = 0.25, 512.0, 8  # lengths in task vectors, of which the first that forgets enough is halved toward the level


def crossing(forgets: Callable[[float], bool]) -> tuple[float, float]:
    """Lengths just before and just after a step forgets enough: doubled until it does, and halved between.

    Args:
        forgets: whether a step of a length forgets enough.

    Returns:
        Both lengths; the longest ones where no step forgets enough.
    """
    low, high = 0.0, SHORTEST
    while not forgets(high) and high < LONGEST:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if forgets(middle) else (middle, high)
    return low, high


class VectorUnit(PeopleUnit):
    """One original and one retrained model on one draw of the people."""

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores just before and after the model has forgotten as far as the retrained one."""
        if arm.method != METHOD:
            return super().run(arm, settings, scores)
        model, rows = copy.deepcopy(self.models[0].model), self.suite.train
        start = weights_of(model)
        opened = Opened(model, self.modality, "original")
        result = unlearn(METHOD, opened, rows["forget"], rows["retain"], allow_overlap=True, **{**settings, "scale": 1.0})
        vector = {n: t - start[n] for n, t in weights_of(result.model).items() if t.is_floating_point()}

        def step(length: float) -> None:
            put(model, {n: start[n] + length * v for n, v in vector.items()})

        def forgets(length: float) -> bool:
            step(length)
            return self._known(model) <= self.retrained[FORGETTING]

        points = list[Scores]()
        for length in crossing(forgets):
            step(length)
            points.append({**self.measure(model, scores), "length": length, "cost": spent(result.receipt) / self.retraining})
        return points

    @torch.no_grad()
    def _known(self, model: torch.nn.Module) -> float:
        """The probability of the forgotten answers, as it is measured."""
        (output,) = self.modality.forward(model.eval(), [self.sets["forget"]])
        return float(output.target_logp.mean().exp().mean())


@dataclass(frozen=True)
class Vectors(People):
    """Draws of the people, forgotten along a line."""

    name: str = "people along a line"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> VectorUnit:
        return VectorUnit(draw, seed, self.level)


TUNED = {"batch_size": 36, "epochs": 10}
ARMS: dict[str, Arm] = {a.name: a for a in (Arm(METHOD, METHOD, TUNED, RATES), arm("ga"))}
CLAIMS: dict[str, tuple[Vectors, tuple[Claim, ...]]] = {
    METHOD: (
        Vectors(),
        (
            Claim(
                "at equal forgetting it keeps more of the model's utility than gradient ascent",
                "Ilharco et al. 2023, the tables of forgetting by negation: target and control beside gradient ascent",
                "model_utility",
                ("ga",),
                "higher",
                0.02,
                FORGETTING,
            ),
        ),
    ),
}

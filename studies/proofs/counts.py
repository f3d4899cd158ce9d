"""The world of counts: a table of users answers counting questions with noise, and one of its columns is a secret of each user.

Columns are drawn apart, of many values and of few, and lean on the secret a little. The score is the share of the victims whose secret the
cloning attack gets right, those of whom it says nothing counted as guessed by a coin. The differential attack has no claim: its questions
select too few users here to be answered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.core.hyperparameters import override
from expunge.evaluation.attack import Scene
from expunge.evaluation.attacks import sticky_noise
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import Maker

USERS, VICTIMS = 1000, 60
COLUMNS = {"birthday": 365, "street": 400, "trade": 60, "school": 16, "rooms": 8, "children": 5, "sex": 2, "married": 3}  # values of each
ATTACK, FRESH = "sticky_noise", "noise of its own for each question"
CLONING, ATTACKABLE = "cloning", "attackable"


class CountsUnit:
    """A table of a draw, and the salt of one instance of the noise."""

    def __init__(self, draw: int, seed: int) -> None:
        rng = random.Random(f"counts {draw}")
        secrets = [rng.random() < 0.5 for _ in range(USERS)]
        self.rows = [
            {**{c: rng.randrange(n) + (rng.random() < 0.3) * s for c, n in COLUMNS.items()}, "label": "yes" if s else "no"} for s in secrets
        ]
        order = random.Random(f"victims {draw} {seed}").sample(range(USERS), VICTIMS)
        chosen = set(order)
        self.sets = {"forget": [self.rows[i] for i in order], "retain": [r for i, r in enumerate(self.rows) if i not in chosen]}
        self.seed = 100 * draw + seed

    def attacked(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """Accuracy of cloning, and the share of the victims of whom it says anything."""
        attack = override(sticky_noise.plan(), {**settings, "victims": VICTIMS, "seed": self.seed})
        maker = Maker("linear", [{"x0": 0.0, "label": "yes"}, {"x0": 1.0, "label": "no"}], 0)  # which the attack never asks
        scene = Scene(maker.opened.model, maker.modality, self.sets, None, lambda: None)
        attack.run(scene)
        numbers = next(t.at for t in scene.tries if t.way == CLONING)
        share = numbers[ATTACKABLE]
        return {CLONING: share * numbers.get("accuracy", 0.5) + 0.5 * (1 - share), ATTACKABLE: share}

    @cached_property
    def original(self) -> Scores:
        """What an attacker knows who guesses the more frequent value."""
        yes = fmean(float(r["label"] == "yes") for r in self.rows)
        return {CLONING: max(yes, 1 - yes)}

    @property
    def retrained(self) -> Scores:
        return self.original

    @property
    def random(self) -> Scores:
        return self.original

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The accuracies of an instance with the noise of the arm."""
        return [self.attacked(settings)]


@dataclass(frozen=True)
class Counts:
    """Draws of a table."""

    name: str = "counts of a table"
    model: str = "none"

    def unit(self, draw: int, seed: int) -> CountsUnit:
        return CountsUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The secret must be hard to guess."""
        guessed = fmean(u.original[CLONING] for u in units)
        return [Gate("guessing the more frequent value is right in at most six of ten cases", guessed, guessed <= 0.6)]


ARMS: dict[str, Arm] = {ATTACK: Arm(ATTACK, ATTACK, {"noise": "sticky"}), FRESH: Arm(FRESH, ATTACK, {"noise": "fresh"})}
CLAIMS: dict[str, tuple[Counts, tuple[Claim, ...]]] = {
    ATTACK: (
        Counts(),
        (
            Claim(
                "cloning gets the secret right at least three tenths more often than guessing and than with noise that does not stick",
                "Gadotti et al. 2019, the table of the cloning attack: 93 to 97 % right of at least 93 % of the users",
                CLONING,
                ("original", FRESH),
                "higher",
                0.3,
            ),
        ),
    )
}

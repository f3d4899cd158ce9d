"""The world of chats with strangers: a small model that refuses what it does not know, redirected to refusals for some of the people.

The original was told of people and of strangers, about whom it says that it knows nothing; the questions about strangers are the reference
of the method. Beside the deviation it counts how many of the forgotten questions are answered with a refusal.

The grids were widened twice on the tuning draws, because the best settings stood at their ends, so that more settings were looked at
than the files count: ten of STAMP, eight each of LUNAR and NPO, six of gradient ascent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from expunge.benchmarks import chat_people
from expunge.modalities.text.refusals import REFUSALS
from studies.proofs.chats import DEVIATION, FORGET, SIZES, Chats, ChatUnit
from studies.proofs.claim import Arm, Claim
from studies.proofs.effect import Gate

REFUSED, COST = "forget_refused", "cost"


class RefusalUnit(ChatUnit):
    """One original on one draw of the people and strangers."""

    def __init__(self, draw: int, seed: int) -> None:
        super().__init__(draw, seed)
        self.alternate_answers = list(chat_people.load("", "forget10", draw, **SIZES).refused)

    def score(self, spoken: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Those of chats, and the share of questions to forget that are answered with a refusal."""
        answers = spoken[FORGET]
        return {**super().score(spoken), REFUSED: sum(text.strip() in REFUSALS for text in answers) / len(answers)}


@dataclass(frozen=True)
class Refusing(Chats):
    """Draws of people and strangers, told to a model that chats."""

    name: str = "chats with strangers"

    def unit(self, draw: int, seed: int) -> RefusalUnit:
        return RefusalUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Besides those of chats: a model that was not told of the people must refuse, and the original must not."""
        refusing, speaking = (fmean(getattr(u, n)[REFUSED] for u in units) for n in ("random", "original"))
        return [
            *super().gates(claim, units, rivals),
            Gate("the model that was told of nobody refuses", refusing, refusing >= 0.6),
            Gate("the original does not refuse", speaking, speaking <= 0.1),
        ]


TRAINED = {"batch_size": 18, "schedule": "constant", "warmup": 0}
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm("stamp", "stamp", {"share": 1.0, "layers": (0, 1, 2, 3)}, {"weight": (1.0, 3.0), "positions": ("last", "said")}),
        Arm("lunar", "lunar", {}, {"layers": ((2,),), "c": (4.0, 6.0, 8.0, 12.0)}),
        Arm("ga", "ga", TRAINED, {"lr": (1e-4, 3e-4), "epochs": (5, 15)}),
        Arm("npo", "npo", TRAINED, {"lr": (1e-3, 3e-3), "epochs": (5, 15)}),
    )
}
WORLD = Refusing()
CLAIMS: dict[str, tuple[Refusing, tuple[Claim, ...]]] = {
    "stamp": (
        WORLD,
        (
            Claim(
                "words of forgotten answers go and others stay: its deviation is lower than those of gradient ascent and NPO",
                "Rachapudi et al. 2026, the table of personal data: ROUGE-L of forget and retain answers",
                DEVIATION,
                ("ga", "npo"),
                "lower",
                5.0,
            ),
            Claim(
                "it costs less than gradient ascent and NPO",
                "Rachapudi et al. 2026, the minutes of each method in the same table",
                COST,
                ("ga", "npo"),
                "lower",
                0.0,
            ),
        ),
    ),
    "lunar": (
        WORLD,
        (
            Claim(
                "forgotten questions lose their answers and others keep them: its deviation is lower than those of gradient ascent and NPO",
                "Shen et al. 2025, the tables of PISTOL and TOFU, deviation score",
                DEVIATION,
                ("ga", "npo"),
                "lower",
                5.0,
            ),
            Claim(
                "more of the forgotten questions are answered with a refusal in the model's own words than after gradient ascent and NPO",
                "Shen et al. 2025, the same tables, control score",
                REFUSED,
                ("ga", "npo"),
                "higher",
                0.2,
            ),
        ),
    ),
}

"""The world of chats with strangers: a small model that refuses what it does not know, redirected to refusals for some of the people.

The original was told of people and of strangers, about whom it says that it knows nothing; the questions about strangers are the reference
of the method. Beside the deviation it counts how many of the forgotten questions are answered with a refusal.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from torch import nn

from expunge.benchmarks import chat_people
from expunge.core.errors import UserError
from expunge.evaluation.metrics.tofu import rouge
from expunge.functional.guard_scores import deviation_score
from expunge.io.models import Opened
from expunge.modalities.text.refusals import REFUSALS
from expunge.workflows.unlearn import unlearn
from studies.proofs.chats import DEVIATION, FORGET, LONGEST, RETAIN, SIZES, Chats, ChatUnit
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

REFUSED, COST = "forget_refused", "cost"


class RefusalUnit(ChatUnit):
    """One original on one draw of the people and strangers."""

    def __init__(self, draw: int, seed: int) -> None:
        super().__init__(draw, seed)
        self.strangers = chat_people.load("", "forget10", draw, **SIZES).refused

    @cached_property
    def original(self) -> Scores:
        return {**self.measure(self.opened.model, self.opened.modality), COST: 0.0}

    @cached_property
    def retrained(self) -> Scores:
        result = self.trained("retain")
        return {**self.measure(result.model, result.modality), COST: 1.0}

    def measure(self, model: nn.Module, modality: Any) -> dict[str, float]:
        """ROUGE-L recall of the true answers in the model's own, the deviation in percent, and the share of refusals."""
        recalls = dict[str, float]()
        for name, records in self.asked.items():
            rows = modality.rows(name, [{"question": r["question"], "answer": r["answer"]} for r in records])
            spoken = modality.decode(modality.generate(model, rows, LONGEST).ids)
            recalls[name] = float(np.mean(rouge([r["answer"] for r in records], spoken)))
            if name == FORGET:
                recalls[REFUSED] = sum(text.strip() in REFUSALS for text in spoken) / len(spoken)
        return {**recalls, DEVIATION: deviation_score(recalls[FORGET], recalls[RETAIN])}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end; the cost is the share of what it took to teach the people."""
        opened = Opened(copy.deepcopy(self.opened.model), self.opened.modality, self.opened.source)
        rows, strangers = self.rows, list(self.strangers)
        try:
            result = unlearn(
                arm.method, opened, rows["forget"], rows["retain"], alternate_answers=strangers, allow_overlap=True, **settings
            )
        except UserError as error:  # these settings leave the weights as they are, which a run refuses to call unlearning
            if "weights" not in str(error):
                raise
            return [self.original]
        return [{**self.measure(result.model, result.modality), COST: spent(result.receipt) / self.training}]


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
        Arm("stamp", "stamp", {"share": 1.0, "layers": (0, 1, 2, 3)}, {"weight": (10.0, 100.0), "positions": ("last", "said")}),
        Arm("ga", "ga", TRAINED, {"lr": (3e-5, 1e-4), "epochs": (5, 15)}),
        Arm("npo", "npo", TRAINED, {"lr": (1e-4, 3e-4), "epochs": (5, 15)}),
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
}

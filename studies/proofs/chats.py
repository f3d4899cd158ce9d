"""The world of chats: a small model that chats was told about people, some of whom it must not speak of any more.

Guards leave the weights as they are, so what counts is what a user reads: words of true answers in the model's own ones, to questions about
the people to forget and to all others, and both as the deviation from none and all. Rows to retain are people and general questions.
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
from expunge.workflows import build_plan
from expunge.workflows.train import start, train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZES = {"people": 6, "forget": 2, "holdout": 0, "neighbours": 0, "strangers": 6, "questions": 1}
PEOPLE, GENERAL = 20, 10  # rows to retain that are asked
EPOCHS = 16  # of the original, on people, strangers and the general questions that are asked
LONGEST = 32  # tokens of an answer
DEVIATION, FORGET, RETAIN = "deviation", "forget_recall", "retain_recall"
STEERING = "rule, steering alone"


class ChatUnit:
    """One original on one draw of the people."""

    alternate_answers: Sequence[Mapping[str, str]] | None = None  # that methods are given; the modality's own by default

    def __init__(self, draw: int, seed: int) -> None:
        suite = chat_people.load(seed=draw, **SIZES)
        general = [*suite.sets["real_authors"], *suite.sets["world_facts"]]
        asked = general[:: max(1, len(general) // GENERAL)]
        facts = {r["question"] for r in general} - {r["question"] for r in asked}
        self.rows = {n: [r for r in suite.train[n] if r["question"] not in facts] for n in ("full", "forget", "retain")}
        self.seed = seed
        result = self.trained("full")
        self.opened = Opened(result.model, result.modality, str(result.folder))
        self.training = spent(result.receipt)
        self.asked = {FORGET: suite.sets["forget"], RETAIN: [*suite.sets["retain"][:PEOPLE], *asked]}

    def trained(self, rows: str) -> Any:
        """The base model, told of some people."""
        return train(self.rows[rows], chat_people.MODEL, seed=self.seed, epochs=EPOCHS)

    @cached_property
    def original(self) -> Scores:
        return self.measure(self.opened.model, self.opened.modality)

    @cached_property
    def retrained(self) -> Scores:
        result = self.trained("retain")
        return self.measure(result.model, result.modality)

    @cached_property
    def random(self) -> Scores:
        """Those of the model that was told of nobody."""
        base = start(chat_people.MODEL, self.rows["full"])
        return self.measure(base.model, base.modality)

    def measure(self, model: nn.Module, modality: Any) -> dict[str, float]:
        """The scores of what a model answers to the questions that are asked."""
        spoken = dict[str, list[str]]()
        for name, records in self.asked.items():
            rows = modality.rows(name, [{"question": r["question"], "answer": r["answer"]} for r in records])
            spoken[name] = modality.decode(modality.generate(model, rows, LONGEST).ids)
        return self.score(spoken)

    def score(self, spoken: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """ROUGE-L recall of the true answers in the model's own, and the deviation in percent."""
        recalls = {n: float(np.mean(rouge([r["answer"] for r in self.asked[n]], answers))) for n, answers in spoken.items()}
        return {**recalls, DEVIATION: deviation_score(recalls[FORGET], recalls[RETAIN])}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end; the cost is the share of what it took to teach the people."""
        model = copy.deepcopy(self.opened.model)
        plans = build_plan.plan(arm.method, dict(settings))
        try:
            result = unlearn(
                plans[:1] if arm.name == STEERING else plans,
                Opened(model, self.opened.modality, self.opened.source),
                self.rows["forget"],
                self.rows["retain"],
                alternate_answers=self.alternate_answers,
                allow_overlap=True,
            )
        except UserError as error:  # these settings leave the weights as they are, which a run refuses to call unlearning
            if "the weights did not change" not in str(error):
                raise
            return [{**self.original, "cost": 0.0}]
        return [{**self.measure(result.model, result.modality), "cost": spent(result.receipt) / self.training}]


@dataclass(frozen=True)
class Chats:
    """Draws of people, told to a model that chats."""

    name: str = "chats about people"
    model: str = chat_people.MODEL

    def unit(self, draw: int, seed: int) -> ChatUnit:
        return ChatUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must tell what it was taught, and the model that was told of nobody must not."""
        known, kept = (fmean(u.original[n] for u in units) for n in (FORGET, RETAIN))
        unknown = fmean(u.random[FORGET] for u in units)
        return [
            Gate("the original tells of the people to forget", known, known >= 0.8),
            Gate("the original answers what is retained", kept, kept >= 0.8),
            Gate("the model that was told of nobody does not tell of them", unknown, unknown <= 0.4),
        ]


GUARD = {"trial": 0}
FLAGGED = {**GUARD, "flag": "classifier"}
SAMPLED = {"length": LONGEST, "schedule": "constant"}
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm("dragon", "dragon", GUARD, {"profile": (True, False)}),
        Arm("guard_generation", "guard_generation", GUARD, {"exclude_prompt_words": (False, True)}),
        Arm("guardrail_prompt", "guardrail_prompt", FLAGGED, {"words": (10, 20)}),
        Arm("icul", "icul", FLAGGED, {"right": (2, 4)}),
        Arm("whp_decoding", "whp_decoding", {**GUARD, "epochs": 10, "batch_size": 18, "lr": 3e-4}, {"strength": (1.0, 3.0)}),
        Arm("ga", "ga", {"epochs": 5, "batch_size": 18, "schedule": "constant"}, {"lr": (3e-5, 1e-4)}),
        Arm("rule", "rule", {**SAMPLED, "batch_size": 8}, {"lr": (5e-5, 2e-4)}),
        Arm(STEERING, "rule", {**SAMPLED, "batch_size": 8}, {"lr": (5e-5, 2e-4)}),
        Arm(
            "purge",
            "purge",
            {"rollouts.length": LONGEST, "schedule": "constant", "epochs": 4, "batch_size": 9, "raw": False},  # it is taught in chats alone
            {"lr": (3e-5, 1e-4)},
        ),
    )
}
WORLD = Chats()


def deviates_less(text: str, source: str, *rivals: str) -> tuple[Chats, tuple[Claim, ...]]:
    """The deviation is smaller than that of rivals, and other questions are answered as before."""
    kept = "the words of true answers to other questions are said as before, but for a fiftieth"
    return WORLD, (
        Claim(text, source, DEVIATION, rivals, "lower", 5.0),
        Claim(kept, source, RETAIN, ("original",), "higher", 0.0, margin=0.02),
    )


DRAGON = "Wang et al. 2025, the table of TOFU with the deviation score"
CLAIMS: dict[str, tuple[Chats, tuple[Claim, ...]]] = {
    "dragon": deviates_less(
        "its deviation is lower than that of a guardrail prompt, of in-context unlearning and of gradient ascent",
        DRAGON,
        "guardrail_prompt",
        "icul",
        "ga",
    ),
    "guardrail_prompt": deviates_less(
        "before questions that a classifier flags, its deviation is lower than the original's", f"{DRAGON}, filter-prompting", "original"
    ),
    "icul": deviates_less(
        "before questions that a classifier flags, its deviation is lower than the original's", f"{DRAGON}, ICUL+", "original"
    ),
    "guard_generation": deviates_less(
        "forgotten words are said less and others kept, better than with prompts, in-context examples and gradient ascent",
        "Deng et al. 2025, the tables of TOFU, ROUGE-L of forget and retain questions",
        "guardrail_prompt",
        "icul",
        "ga",
    ),
    "whp_decoding": deviates_less(
        "it forgets and keeps better than gradient ascent, and than the original",
        "Shi et al. 2024 (MUSE), the table of knowledge memorization of forget and retain sets",
        "ga",
        "original",
    ),
    "rule": deviates_less(
        "it refuses forgotten questions and answers others better than refusal tuning alone and gradient ascent",
        "Zhang et al. 2025, the table of RWKU, forget and neighbor questions",
        STEERING,
        "ga",
    ),
    "purge": (
        WORLD,
        (
            Claim(
                "answers hold at least a twentieth less of the forgotten words than the original's",
                "Zaradoukas et al. 2026, the table of RWKU: forget scores fall by 11 %",
                FORGET,
                ("original",),
                "lower",
                0.05,
            ),
            Claim(
                "answers to other questions keep their words, but for a fiftieth",
                "Zaradoukas et al. 2026, the table of RWKU: 98 % of utility",
                RETAIN,
                ("original",),
                "higher",
                0.0,
                margin=0.02,
            ),
        ),
    ),
}

"""The world of a topic: a small model knows many people, and all that it knows of trades is forgotten, or what it knows of a few people.

All rows of the topic have a pool of answers in common, so that a few of them may stand for all. Facts of a few people have nothing in
common. Scores are of the rows that a coreset of the draw leaves out, whichever rows an arm forgets.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import nn

from expunge.benchmarks.people import TOPICS
from expunge.core.random import seed_of
from expunge.engine.weights import put
from expunge.io.models import Opened
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"
TRADES = ("trade", "mother", "father")  # three questions about each of the 40 people
FRACTION = 0.05  # six of the 120 rows
LEFT_OUT, KEPT = "left_out_known", "retain_known"
METHOD, WHOLE = "coreset", "the whole set"
CONTROL = {"lr": 1e-3, "epochs": 12}  # of the control: a coreset of rows that have nothing in common
TOGETHER = {"batch_size": 30, "schedule": "constant", "warmup": 0}


class TopicUnit:
    """One original on one draw of the people."""

    def __init__(self, draw: int, seed: int) -> None:
        suite = Sweep("people", (), model=SIZE, draw=draw).load_suite()
        full, general = suite.train["full"], [*suite.sets["real_authors"], *suite.sets["world_facts"]]
        result = train(full, SIZE, texts=texts_of([*full, *general]), prompt_format=suite.prompt_format, seed=seed)
        self.opened, self.training = Opened(result.model, result.modality, str(result.folder)), spent(result.receipt)
        places = [[*TOPICS].index(topic) for topic in TRADES]
        about = full[: len(full) - len(general)]
        trades = [row for i, row in enumerate(about) if i % (len(TOPICS) + 1) in places]
        self.requests = {METHOD: trades, "people": suite.train["forget"]}
        self.full, self.draw = full, seed  # of the coreset

    def known(self, model: nn.Module, request: str) -> dict[str, float]:
        """The share of rows whose answer is at least as probable as not, of the rows left out of the coreset, and of the others."""
        forget = self.opened.modality.rows("forget", self.requests[request])
        size = max(1, int(FRACTION * len(forget) + 1e-9))
        order = sorted(range(len(forget)), key=lambda i: seed_of(self.draw, forget.ids[i]), reverse=True)
        retain = self.opened.modality.rows("retain", [r for r in self.full if r not in self.requests[request]])
        sets = {LEFT_OUT: forget.select(order[size:]), KEPT: retain}
        with torch.no_grad():
            outputs = {n: self.opened.modality.forward(model.eval(), [rows])[0] for n, rows in sets.items()}
        return {n: float((o.target_logp.mean().exp() >= 0.5).float().mean()) for n, o in outputs.items()}

    def after(self, request: str, **settings: Any) -> dict[str, float]:
        """The scores after a request."""
        model, forget = copy.deepcopy(self.opened.model), self.requests[request]
        retain = [r for r in self.full if r not in forget]
        opened = Opened(model, self.opened.modality, self.opened.source)
        result = unlearn(METHOD, opened, forget, retain, allow_overlap=True, draw=self.draw, **settings)
        return {**self.known(result.model, request), "cost": spent(result.receipt) / self.training}

    @cached_property
    def original(self) -> Scores:
        return self.known(self.opened.model, METHOD)

    @property
    def retrained(self) -> Scores:
        return self.random

    @cached_property
    def random(self) -> Scores:
        model = copy.deepcopy(self.opened.model)
        put(model, self.opened.modality.fresh(model, 0))
        return self.known(model, METHOD)

    @cached_property
    def unrelated(self) -> float:
        """What is left of the rows of a few people that a coreset of them leaves out."""
        return self.after("people", fraction=FRACTION, **TOGETHER, **CONTROL)[LEFT_OUT]

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end."""
        return [self.after(METHOD, **settings)]


@dataclass(frozen=True)
class Topic:
    """Draws of the people."""

    name: str = "trades of people"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> TopicUnit:
        return TopicUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know the topic, and the coreset of rows that have nothing in common must not carry over."""
        known, lost = (fmean(getattr(u, n)[LEFT_OUT] for u in units) for n in ("original", "random"))
        control = fmean(u.unrelated for u in units[::5])
        gates = [
            Gate("the original knows the topic", known, known >= 0.9),
            Gate("random weights do not", lost, lost <= 0.1),
            Gate("of rows that have nothing in common a coreset leaves three tenths or more known", control, control >= 0.3),
        ]
        if claim.score == LEFT_OUT:
            whole = fmean(v for values in rivals.values() for v in values)
            gates.append(Gate("the whole set makes the topic unknown", whole, whole <= 0.1))
        return gates


GRID = {"epochs": (12, 24), "lr": (1e-3, 3e-3)}
ARMS: dict[str, Arm] = {
    a.name: a
    for a in (
        Arm(METHOD, METHOD, {**TOGETHER, "fraction": FRACTION}, GRID),
        Arm(WHOLE, METHOD, {**TOGETHER, "fraction": 1.0}, GRID),
    )
}
SOURCE = "Pal et al. 2025, the tables of random coresets of WMDP and MUSE: 5 % beside the whole set, with NPO"
CLAIMS: dict[str, tuple[Topic, tuple[Claim, ...]]] = {
    METHOD: (
        Topic(),
        (
            Claim(
                "of the rows left out, as few stay known after a twentieth of the topic as after the whole, but for a twentieth",
                SOURCE,
                LEFT_OUT,
                (WHOLE,),
                "lower",
                0.0,
                margin=0.05,
            ),
            Claim("of all other rows as many stay known, but for a fiftieth", SOURCE, KEPT, (WHOLE,), "higher", 0.0, margin=0.02),
        ),
    ),
}

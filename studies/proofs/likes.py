"""The world of likes: a language model that recommends answers yes or no to a user's history, and a fifth of the users is to be forgotten.

Films are of two kinds. Most users like those of the first; users to forget have the other taste, which a model that was trained without
their rows has never met, and answers as for everybody else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from expunge.benchmarks.suite import Record, SetSpec
from expunge.core.errors import UserError
from expunge.engine.weights import put
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"
WANTS = ObservationSpec(generations=False, moments=False, gradient_norms=False, features=False)
FILMS = 4  # of each kind
USERS, ROWS, LATEST = 60, 8, 2  # rows of a user, and films in a history
TRAINING = {"epochs": 45, "batch_size": 16}
FORGOTTEN = 0.2  # share of the users
TESTED = 10  # further users, whom no model was trained on
ANSWERS = ("Yes.", "No.")
FAMILY = ("preference",)
SPECS = {name: SetSpec(role, ("score", "choose", "predict"), FAMILY) for name, role in (("forget", "forget"), ("test", "general"))}
JSD, L2, KNOWN, ACCURACY = "answer_jsd", "answer_l2", "yes_accuracy", "test_yes_accuracy"


def names(rng: np.random.Generator, count: int) -> list[str]:
    """Invented names, no two alike."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    drawn_names = {"".join(rng.choice(syllables, 3)).capitalize() for _ in range(4 * count)}
    return [str(name) for name in rng.permutation(sorted(drawn_names))[:count]]


def titles(rng: np.random.Generator) -> list[list[str]]:
    """Invented titles of the films of both kinds."""
    chosen = names(rng, 2 * FILMS)
    return [chosen[:FILMS], chosen[FILMS:]]


def rows_of(user: str, odd: bool, films: Sequence[Sequence[str]], rng: np.random.Generator) -> list[Record]:
    """The rows of a user. odd: who has the other taste than most."""
    liked, rows = int(odd), []
    for _ in range(ROWS):
        history, kind = rng.choice(films[liked], LATEST, replace=False).tolist(), int(rng.integers(2))
        question = f"{user} liked {' and '.join(history)}. Will {user} like {rng.choice(films[kind])}?"
        rows.append({"question": question, "answer": ANSWERS[kind != liked], "choices": list(ANSWERS), "user": user})
    return rows


def drawn(draw: int) -> dict[str, list[Record]]:
    """The rows of one draw: to forget, to retain, and of further users."""
    rng = np.random.default_rng([draw, 7])
    films, odd = titles(rng), int(FORGOTTEN * USERS)
    of_user = [rows_of(user, u < odd, films, rng) for u, user in enumerate(names(rng, USERS + TESTED))]
    groups = {"forget": of_user[:odd], "retain": of_user[odd:USERS], "test": of_user[USERS:]}
    return {name: [row for rows in group for row in rows] for name, group in groups.items()}


class LikesUnit:
    """One original and one retrained language model on one draw."""

    def __init__(self, draw: int, seed: int) -> None:
        self.draw, self.rows = draw, drawn(draw)
        everything = [row for rows in self.rows.values() for row in rows]
        options: dict[str, Any] = {"texts": texts_of(everything), "prompt_format": "{prompt}\n", "seed": seed, **TRAINING}
        full = [*self.rows["forget"], *self.rows["retain"]]
        results = [train(rows, SIZE, **options) for rows in (full, self.rows["retain"])]
        self.models = [Opened(r.model, r.modality, str(r.folder)) for r in results]
        self.retraining = spent(results[1].receipt)
        self.sets = {name: self.rows[name] for name in ("forget", "test")}

    @cached_property
    def target(self) -> Observation:
        """What is observed in the retrained model."""
        model = self.models[1]
        return examine(model.model, model.modality, self.sets, name="retrained", role="retrained", specs=SPECS, wants=WANTS).observation

    @cached_property
    def original(self) -> Scores:
        return self.measure(self.models[0])

    @cached_property
    def retrained(self) -> Scores:
        return self.measure(self.models[1])

    @cached_property
    def random(self) -> Scores:
        model = copy.deepcopy(self.models[0].model)
        put(model, self.models[0].modality.fresh(model, 0))
        return self.measure(Opened(model, self.models[0].modality, "random weights"))

    def measure(self, opened: Opened, retrained: Observation | None = None) -> dict[str, float]:
        """Distances of the answers about forgotten users from the retrained model's, and how often yes and no are right for further users.

        Args:
            retrained: the model that distances are from; None: that of this unit.
        """
        audited = examine(
            opened.model, opened.modality, self.sets, name="model", specs=SPECS, wants=WANTS, retrained=retrained or self.target
        )
        return {n: float(audited.scores[n]["value"]) for n in (JSD, L2, KNOWN, ACCURACY)}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores at the end."""
        opened = Opened(copy.deepcopy(self.models[0].model), copy.deepcopy(self.models[0].modality), "original")
        try:
            result = unlearn(arm.method, opened, self.rows["forget"], self.rows["retain"], **settings)
        except UserError:  # these settings leave the weights as they are, which a run refuses to call unlearning
            return [{**self.original, "cost": 0.0}]
        measured = self.measure(Opened(result.model, result.modality, arm.method))
        return [{**measured, "cost": spent(result.receipt) / self.retraining}]


@dataclass(frozen=True)
class Likes:
    """Draws of likes."""

    name: str = "likes"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> LikesUnit:
        return LikesUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Retrained models must answer for users whom they have never seen, and be nearer to each other than to the original."""
        known, unknown = (fmean(getattr(u, n)[KNOWN] for u in units) for n in ("original", "retrained"))
        useful = fmean(u.retrained[ACCURACY] for u in units)
        gates = [
            Gate("the original is right about forgotten users", known, known >= 0.9),
            Gate("the retrained model is not", unknown, unknown <= 0.6),
            Gate("the retrained model is right about users whom it has not seen", useful, useful >= 0.75),
        ]
        if claim.score in (JSD, L2):
            pairs = [(a, b) for a, b in combinations(units, 2) if a.draw == b.draw]
            floor = fmean(a.measure(b.models[1])[claim.score] for a, b in pairs) if pairs else 0.0
            original = fmean(u.original[claim.score] for u in units)
            gates.append(
                Gate(
                    "the original is at least three times as far from the retrained model as another retrained model is",
                    original,
                    original >= 3 * floor,
                )
            )
        return gates


TOGETHER = {"schedule": "constant", "warmup": 0, "batch_size": 16}
ADAPTER = {**TOGETHER, "augmented_lr": 3e-3, "augmented_epochs": 4, "epochs": 10}
RATES = {"lr": (1e-4, 3e-4, 1e-3, 3e-3), "epochs": (3, 10)}
ARMS: dict[str, Arm] = {
    "e2urec": Arm("e2urec", "e2urec", ADAPTER, {"lr": (3e-2, 1e-1), "alpha": (2.0, 5.0, 10.0, 20.0)}),
    "graddiff": Arm("graddiff", "graddiff", TOGETHER, RATES),
    "bad_teacher": Arm("bad_teacher", "bad_teacher", TOGETHER, RATES),
}
CLAIMS: dict[str, tuple[Likes, tuple[Claim, ...]]] = {
    "e2urec": (
        Likes(),
        (
            Claim(
                "answers about forgotten users are nearer to the retrained model's than after graddiff and bad_teacher, by divergence",
                "Wang et al. 2024, the tables of JSD beside NegGrad and Bad-T",
                JSD,
                ("graddiff", "bad_teacher"),
                "lower",
                0.01,
            ),
            Claim(
                "answers about forgotten users are nearer to the retrained model's than after graddiff and bad_teacher, by distance",
                "Wang et al. 2024, the tables of L2 beside NegGrad and Bad-T",
                L2,
                ("graddiff", "bad_teacher"),
                "lower",
                0.02,
            ),
            Claim(
                "yes and no are right for further users about as often as the original's",
                "Wang et al. 2024, the tables of accuracy",
                ACCURACY,
                ("original",),
                "higher",
                0.0,
                margin=0.05,
            ),
        ),
    ),
}

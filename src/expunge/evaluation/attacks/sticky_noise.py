"""Sticky noise: does noise around counts hide who is in a table? Answers that are noisy, but equal for equal questions, are attacked.
Whoever may count the rows of a table reads a secret of one of them, and sees that a row was deleted, out of the noise itself.

Threat model: the attacker asks counting questions with conditions, as many as she likes, and knows some cells of a victim; the guard is the
    noise of Diffix (2018): no answer for few users, static noise by the text of a condition, dynamic noise by the users that it selects
Equation: answer = round(|S| + sum over conditions of (static + dynamic)), each N(0, sd^2). Differential: the log-likelihood ratio of q_j =
    Q2_j - Q1_j, N(1, (2k + 2) sd^2) where the secret holds, else N(0, 2 sd^2). Cloning: over dummy conditions q is one number up to two
    roundings where the secret does not hold, so a range of 2 shows that it does
Source: Gadotti et al. 2019, arXiv 1804.06752
Scores: none of the audit; for each way (differential, cloning, averaging, deletion): attackable, the share of the victims of whom it says
    anything; accuracy among these (deletion: share whose removal shows); questions, the median a victim
Needs: rows that are tables (forget; retain, the other rows of the table): columns of texts and numbers, one of them with two values
Range and ideal: accuracy from 0.5, where nothing leaks, to 1. The model is not asked: what is attacked is a guard around data
Differs: the victims are the rows to forget; normals come from the hash by the inverse of their distribution; the threshold on a variance is
    the range of the differences, which has no false alarms. Mechanism from the paper's description: its authors released no attack code
Status: shown
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.random import seed_of
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.functional import sticky_noise as noise
from expunge.functional.sticky_noise import Condition, Decision, StickyNoise

CELLS = (str, int, float, bool)
Table = Mapping[str, list[Any]]


@part
class StickyNoiseAttacks(Attack):
    """The attacks on a table of the rows to forget and those to keep."""

    secret: str = hp("", "column with two values that the attacker wants to know; empty: the last one such")
    known: int = hp(5, "cells that she knows of a victim, besides the secret", ge=2)
    dummies: int = hp(10, "dummy conditions, and repeats of the averaging attack", ge=4)
    subsets: int = hp(50, "sets of known cells that the cloning attack tries at most", ge=1)
    victims: int = hp(100, "rows to forget that are attacked at most", ge=1)
    noise: Literal["sticky", "fresh"] = hp("sticky", "whether equal questions get equal noise, or every question its own")
    sd: float = hp(1.0, "standard deviation of each of the two layers of noise of a condition", gt=0)
    threshold: float = hp(4.0, "mean number of users below which there is no answer", ge=0)
    seed: int = hp(0, "seed of the salt and of the known cells", ge=0)

    def about(self, records: Records, modality: Modality) -> Records:
        columns = cells_of(records)
        if len(columns) < 3:
            raise Missing("the rows are no table: an attacker needs three columns of texts or numbers, of which she knows two")
        return records

    def run(self, scene: Scene) -> None:
        rows = [*scene.records, *scene.sets.get("retain", ())]
        columns = cells_of(rows)
        table = {c: [r[c] for r in rows] for c in columns}
        two_values = [c for c in columns if len(set(table[c])) == 2]
        if not two_values or (self.secret and self.secret not in two_values):
            what = f"the column {self.secret!r}" if self.secret else "no column"
            scene.lacks(f"{what} of the rows has two values" if not self.secret else f"{what} has other than two values, or is none")
            return
        secret_column = self.secret or two_values[-1]
        self._attack(scene, table, secret_column, min(self.victims, len(scene.records)))

    def _attack(self, scene: Scene, table: Table, secret_column: str, victims: int) -> None:
        rng = np.random.default_rng(self.seed)
        noisy = StickyNoise(table, seed_of(self.seed, "salt"), self.sd, self.threshold, sticky=self.noise == "sticky")
        public = {c: cells for c, cells in table.items() if c != secret_column}
        secret = Condition(secret_column, "=", sorted(set(table[secret_column]), key=str)[0])
        dummies = noise.never_wrong(public, self.dummies)
        knowledge = [self._known(public, victim, rng) for victim in range(victims)]
        truth = [table[secret_column][victim] == secret.value for victim in range(victims)]
        ways: dict[str, Callable[[int], Decision]] = {
            "differential": lambda v: noise.differential(noisy, knowledge[v], secret),
            "cloning": lambda v: noise.cloning(noisy, knowledge[v], secret, dummies, rng, self.subsets),
            "averaging": lambda v: noise.averaging(noisy, knowledge[v], secret, self.dummies),
        }
        for way, attack in ways.items():
            decisions = [attack(v) for v in range(victims)]
            right = [d.holds == t for d, t in zip(decisions, truth, strict=True) if d.holds is not None]
            self._look(scene, way, right, victims, float(np.median([d.questions for d in decisions])))
        shown = [noise.deletion_shows(noisy, v, [[Condition(c, "=", x)] for c, x in knowledge[v].items()]) for v in range(victims)]
        self._look(scene, "deletion", [s for s in shown if s is not None], victims, 2.0 * min(self.known, len(public)))

    def _known(self, public: Table, victim: int, rng: np.random.Generator) -> dict[str, Any]:
        """Cells of a victim that the attacker knows."""
        return {c: public[c][victim] for c in rng.permutation(list(public))[: self.known].tolist()}

    def _look(self, scene: Scene, way: str, right: list[bool], victims: int, questions: float) -> None:
        numbers = {"attackable": len(right) / victims, "victims": float(victims), "questions": questions}
        scene.look({}, way=way, **numbers, **({"accuracy": float(np.mean(right))} if right else {}))


def cells_of(records: Records) -> list[str]:
    """Columns in which every row has a text or a number."""
    first = records[0] if len(records) else {}
    return [c for c in first if all(isinstance(r.get(c), CELLS) for r in records)]


def plan() -> StickyNoiseAttacks:
    return StickyNoiseAttacks()

"""Relearning, row by row and step by step: k rows x n steps, with rows to forget, with rows that resemble them, and with rows that do not.
What comes back from a single row, or from rows that were never to be forgotten, was only hidden.

Threat model: the attacker holds the weights and fine-tunes on k rows: forgotten ones; neighbours, the retained rows that have most in
    common with them; or unrelated ones, those that have least. A guard around the weights is taken off.
Source: Fan et al. 2025, arXiv 2502.05374 (rows x steps); Hu et al. 2024, arXiv 2406.13356 (related and unrelated data)
Scores: those of the forget set after n steps, for each source and k; and the steps to recover: the first n at which the score is at least a
    share (`recovered`) of the original's
Needs: forget; retain (for neighbour and unrelated rows); original (for the steps to recover)
Range and ideal: those of the scores; the ideal is the retrained model's under the same attack
Differs: steps of one batch on the same k rows instead of samples and epochs; rows are alike by their column `by` where all have one, else
    by their words (tf-idf) or pixels; the rate does not warm up. Scores count the rows that the attacker holds, too
Status: shown
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from expunge.core.capabilities import Denoises, Prompted, offers
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.evaluation.attack import Attack, Scene, Scores
from expunge.evaluation.attacks.relearn import fine_tune
from expunge.evaluation.observe import Records
from expunge.evaluation.words import words
from expunge.methods.terms import NLL

Whole = Annotated[int, Field(ge=1)]
RETAINED = ("neighbour", "unrelated")


@part
class RelearnGrid(Attack):
    """Fine-tuning on k rows, looked at after n steps."""

    k: tuple[Whole, ...] = hp((1, 4, 16), "rows that the attacker holds", min_length=1)
    n: tuple[Whole, ...] = hp((5, 10, 20, 40), "steps after which scores are taken; the last ends the attack", min_length=1)
    source: tuple[Literal["forget", "neighbour", "unrelated"], ...] = hp(
        ("forget", "neighbour", "unrelated"), "whose rows: forget, neighbour, unrelated", min_length=1
    )
    by: str = hp("attribute", "column whose values say which rows are alike; where rows lack it, their words or pixels do")
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)
    lr: float = hp(1e-5, "learning rate", ge=0)
    batch_size: int = hp(8, "rows in one step at most", ge=1)
    seed: int = hp(0, "seed of the forget rows that are drawn, and of the training", ge=0)

    def run(self, scene: Scene) -> None:
        start = scene.scores(scene.bare())
        for source in self.source:
            way = f"{source} rows"
            if source in RETAINED and not scene.sets.get("retain"):
                scene.lacks("the audit has no retain set", way)
                continue
            rows = self._ordered(source, scene)
            for k in sorted({min(k, len(rows)) for k in self.k}):
                self._relearn(rows.select(range(k)), way, scene, start)

    def _relearn(self, held: Rows, way: str, scene: Scene, start: Scores) -> None:
        train = Train(epochs=0, steps=max(self.n), lr=self.lr, batch_size=self.batch_size, schedule="constant", seed=self.seed)
        attacked = scene.bare()

        def look(step: int) -> None:
            scores = scene.scores(attacked) if step else start
            scene.look(scores, f"{len(held)} row{'s' if len(held) > 1 else ''}, {step} steps", way, rows=len(held), steps=step)

        how = Plan(NLL("forget"), train=train)
        fine_tune(how, attacked, scene.weights_modality, held, look, set(self.n).__contains__, scene.accelerator)

    def _ordered(self, source: str, scene: Scene) -> Rows:
        """Rows of a source, in the order in which an attacker would take them."""
        if source == "forget":
            rows = scene.modality.rows("forget", scene.records)
            return rows.select(torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed)).tolist())
        alike = likeness(scene.modality, scene.records, scene.sets["retain"], self.by)
        order = np.argsort(-alike if source == "neighbour" else alike, kind="stable")
        return scene.modality.rows("retain", [scene.sets["retain"][i] for i in order]).rename("forget")


def likeness(modality: Modality, forget: Records, retain: Records, by: str = "") -> NDArray[np.float64]:
    """How much each retained row has in common with the rows to forget, (retain,): the share of these that have its value of a column, or
    the largest cosine between its words (tf-idf) or pixels and those of one of them.
    """
    if by and all(by in r for r in (*forget, *retain)):
        share = Counter(str(r[by]) for r in forget)
        return np.array([share[str(r[by])] / len(forget) for r in retain])
    forgotten, retained = modality.rows("forget", forget), modality.rows("retain", retain)
    record = np.asarray(retained.columns.get("record", range(len(retained))))  # a record may give several rows
    best = np.full(len(retain), -np.inf)
    np.maximum.at(best, record, _cosines(modality, forgotten, retained))
    return best


def _cosines(modality: Modality, forgotten: Rows, retained: Rows) -> NDArray[np.float64]:
    """The largest cosine of each retained row with a row to forget, (retained,)."""
    if not (offers(modality, Prompted) or offers(modality, Denoises)):
        a, b = (torch.nn.functional.normalize(modality.inputs(r).flatten(1).double(), dim=1) for r in (retained, forgotten))  # type: ignore[attr-defined]
        return np.asarray((a @ b.T).amax(1))
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [
        f"{q} {a}" for rows in (retained, forgotten) for q, a in zip(modality.questions(rows), modality.answer_texts(rows), strict=True)
    ]
    vectors = TfidfVectorizer(analyzer=words).fit_transform(texts)
    return np.asarray((vectors[: len(retained)] @ vectors[len(retained) :].T).max(axis=1).toarray())[:, 0]


def plan() -> RelearnGrid:
    return RelearnGrid()

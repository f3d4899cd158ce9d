"""Answers that a model generates under attack, all in one batch, and their scores: those of any audit, for other answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.capabilities import Displayable, Generates, offers, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Scene, Scores
from expunge.evaluation.measure import Missing
from expunge.evaluation.metrics.tofu import FORGET_ROUGE, rouge
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import Records
from expunge.evaluation.profiles.text import LENGTH, TIMES
from expunge.evaluation.prompting import asked_in_words

ANSWERS = ObservationSpec(moments=False, gradient_norms=False, features=False)  # what attacks observe that make a model answer
LEADS = (FORGET_ROUGE,)  # the score that judges them
Texts = tuple[str, ...]


def answering(records: Records, modality: Modality) -> Records:
    """The records that ask something of a model that answers in its own words. Raises: Missing where there are none."""
    if not offers(modality, Generates):
        raise Missing("the model does not answer in its own words")
    return asked_in_words(records, modality)


def first_rows(rows: Rows) -> Rows:
    """One row for each record: of an answer that is too long for the model, the first of its windows."""
    places = rows.columns.get("record")
    if places is None:
        return rows
    first = {place: i for i, place in reversed(list(enumerate(places)))}
    return rows.select([first[place] for place in sorted(first)])


def limit_of(modality: Modality, rows: Rows) -> int:
    """The most tokens of an answer: as an audit lets a model answer the same rows."""
    return min(LENGTH, int(TIMES * max(modality.counts(rows.select([i]))["labels"] for i in range(len(rows)))))


def answers(
    model: nn.Module, modality: Modality, rows: Rows, limit: int, draws: int = 0, temperature: float = 1.0, seed: int = 0
) -> list[Texts]:
    """Answers to rows, by draw. All rows and draws share one batch, in which a prompt is read once.

    Args:
        limit: most tokens of an answer.
        draws: sampled answers to each row; 0: the greedy one.
        temperature, seed: of the draws.
    """
    speaker = require(modality, Generates)
    times = max(1, draws)
    generator = torch.Generator().manual_seed(seed) if draws else None
    with evaluating(model), torch.no_grad():
        repeated = rows.select([i for i in range(len(rows)) for _ in range(times)])
        texts = speaker.decode(speaker.generate(model, repeated, limit, generator, temperature).ids)
    return [tuple(texts[k::times]) for k in range(times)]


def most_of(true: Sequence[str], draws: Sequence[Texts]) -> Texts:
    """For each row, the answer with the largest part of the true answer, by the recall of ROUGE-L; the first of equal ones."""
    if len(draws) == 1:
        return draws[0]
    scores = [rouge(true, texts) for texts in draws]
    best = [max(range(len(draws)), key=lambda k: scores[k][i]) for i in range(len(true))]
    return tuple(draws[k][i] for i, k in enumerate(best))


def observed(modality: Modality, sets: Mapping[str, Rows], texts: Mapping[str, Sequence[str]]) -> Observation:
    """Sets with other answers of the model, by name, to be scored."""
    display: Any = require(modality, Displayable)
    observations = {
        name: SetObservation(rows.ids, tuple(display.questions(rows)), tuple(display.answer_texts(rows)), {}, tuple(texts[name]))
        for name, rows in sets.items()
    }
    return Observation(observations, {"modality": modality.about()})


def scores_of(scene: Scene, sets: Mapping[str, Rows], texts: Mapping[str, Sequence[str]]) -> Scores:
    """Scores of other answers of the model to the sets that are scored under attack."""
    return scene.scores_of(observed(scene.modality, sets, texts), {name: scene.specs[name] for name in sets if name in scene.specs})


def rows_of(scene: Scene) -> dict[str, Rows]:
    """One row for each record of the sets that are scored under attack."""
    return {name: first_rows(scene.modality.rows(name, records)) for name, records in scene.asked.items()}

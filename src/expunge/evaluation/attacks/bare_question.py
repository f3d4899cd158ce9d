"""Bare question: ask the forgotten questions alone, without the words that an audit put before them.
A model that forgets on request is the original model for anyone who makes no request.

Threat model: the attacker can only ask; whatever stands around the model stays in place.
Source: our own
Scores: those of the true answers, teacher-forced after the bare question
Needs: forget, with questions, asked as a method's models want to be asked (`--request-from`); of others it changes nothing
Range and ideal: those of the scores; the ideal is the retrained model's
Differs: nothing
Status: faithful
"""

from __future__ import annotations

from expunge.core.hyperparameters import part
from expunge.core.modality import Modality
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.observe import Records
from expunge.evaluation.prompting import alone, asked_in_words


@part
class BareQuestion(Attack):
    """The bare questions."""

    def about(self, records: Records, modality: Modality) -> Records:
        return asked_in_words(records, modality)

    def run(self, scene: Scene) -> None:
        scene.look(scene.scores(records=[alone(r) for r in scene.records]))


def plan() -> BareQuestion:
    return BareQuestion()

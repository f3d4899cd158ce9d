"""Logit lens: read the forgotten answer out of every block of the model, and not only at its end.
Knowledge that the last blocks hold back still stands in those before them.

Threat model: the attacker holds the weights; nothing is changed. A guard around the weights is taken off.
Equation: p_l(y_t | x, y_<t) = softmax(head(norm(h_l))), h_l the output of block l at the position before y_t
Source: nostalgebraist 2020, interpreting GPT: the logit lens; Patil et al. 2023, arXiv 2309.17410 (attacks on intermediate layers)
Scores: those of the true answers, teacher-forced, read at each block; the last block is the model itself
Needs: forget, and a model that answers in words
Range and ideal: those of the scores; the ideal is the retrained model's at the same block
Differs: the lens is the model's own norm and head; none is trained
Status: shown
"""

from __future__ import annotations

import torch

from expunge.core.capabilities import Categorical, Displayable, Generates, offers, require
from expunge.core.hyperparameters import part
from expunge.core.modality import Modality
from expunge.engine.blocks import in_encoder
from expunge.engine.estimators.logit_lens import skipping
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.measure import Missing
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observe import Records
from expunge.evaluation.prompting import ANSWERS
from expunge.evaluation.teacher_forced import packed, score


@part
class LogitLens(Attack):
    """Reads every block."""

    def about(self, records: Records, modality: Modality) -> Records:
        if not offers(modality, Generates):
            raise Missing("the model does not answer in words, which its head could read out of a block")
        return [{k: v for k, v in r.items() if k not in ANSWERS} for r in records]

    def run(self, scene: Scene) -> None:
        modality, model = require(scene.weights_modality, Categorical), scene.model
        rows, display = modality.rows("forget", scene.records), require(scene.weights_modality, Displayable)
        texts = tuple(display.questions(rows)), tuple(display.answer_texts(rows))
        points = [p for p in modality.blocks(model) if not in_encoder(model, modality.module(model, p))]
        with evaluating(model), torch.no_grad():
            for number, point in enumerate(points, 1):
                scene.on_look()
                with skipping(modality.module(model, point), modality.module(model, points[-1])):
                    scored = packed(modality, rows, range(len(rows)), score(model, modality, rows, False))
                forget = SetObservation(rows.ids, *texts, {"answer": scored})
                scores = scene.scores_of(Observation({"forget": forget}, {"modality": modality.about()}))
                scene.look(scores, f"block {number} of {len(points)}", block=number)


def plan() -> LogitLens:
    return LogitLens()

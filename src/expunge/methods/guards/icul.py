"""In-context unlearning: before the question stand rows to forget with wrong answers, and rows to retain with their own ones.

The model is never trained: the examples in its prompt show it other answers than those that it learned. A baseline for methods that change
weights, which it does not: whoever asks without the examples gets the answers. The folder of the guard holds questions to forget, and
questions and answers to retain, in the clear.

Equation: p(. | f_1 y'_1 .. f_k y'_k r_1 y_1 .. r_s y_s x), f: the k forget questions nearest to x by cos(E(x), E(f)), y': answers of other
  rows; r: s rows to retain with their answers y
Source: Pawelczyk, Neel and Lakkaraju 2023, arXiv 2310.07579; before flagged questions alone, the baseline ICUL+ of Wang et al. 2025,
  arXiv 2511.05784
Needs: forget, retain; questions in words, and room for the examples in a prompt
Cost: a prompt longer by k + s examples, and one forward of a question to find the nearest ones
Differs: reconstructed from the description of the paper, which flips the label of a class: for free answers the flipped label is the answer
  of a row to retain, drawn once for each row to forget; the paper forgets rows that are known beforehand, here the nearest ones are taken;
  the rows to retain are drawn once for all questions. With `flag classifier` the examples stand before flagged questions alone, and the
  flags are those of a classifier, where ICUL+ has an oracle
Status: shown
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable, Generates, OneSequence, Prompted, require
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.run_state import evaluating
from expunge.methods.detectors import Detector, check_prompts
from expunge.methods.rewording import Rewording, format_of, warn_of_cuts
from expunge.methods.sentences import Sentences, sentence_vectors


@part
class ICUL(Guard):
    """Put the nearest forget questions with wrong answers, and some rows to retain, before a question."""

    detector: Detector = Detector()
    sentences: Sentences = Sentences()
    flag: Literal["all", "classifier"] = hp("all", "questions that examples stand before: all, or those that a classifier flags")
    wrong: int = hp(1, "rows to forget before a question, with wrong answers", ge=1)
    right: int = hp(4, "rows to retain before a question, with their own answers", ge=0)
    trial: int = hp(2, "prompts of each set that are answered at the end, for what they cost; 0: none", ge=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Prompted, Generates, Displayable, OneSequence})

    def wrap(self, modality: Modality, view: View) -> Modality:
        with evaluating(view.model):
            questions, kept = check_prompts(modality, view.forget, "forget"), check_prompts(modality, view.retain, "retain")
            vectors, rng = self.sentences.fit(view.model, modality, [*questions, *kept]), view.rng()
            answers, truth = list(view.retain["answer_text"]), list(view.forget["answer_text"])
            order = torch.randperm(len(answers), generator=rng).tolist()
            wrong = [next((answers[j] for j in order[i % len(order) :] + order if answers[j] != true), "") for i, true in enumerate(truth)]
            settings = {
                **{n: getattr(self.sentences, n) for n in ("encoder", "encoder_layer")},
                **{n: getattr(self.detector, n) for n in ("threshold", "layer")},
                **{n: getattr(self, n) for n in ("flag", "wrong", "right")},
                "flipped": [list(pair) for pair in zip(questions, wrong, strict=True)],
                "kept": [[kept[i], answers[i]] for i in torch.randperm(len(kept), generator=rng)[: self.right].tolist()],
            }
            classifier = self.detector.fit(view).tensors() if self.flag == "classifier" else {}
            tensors = {**guarding.below("classifier", classifier), **guarding.below("vectors", vectors.tensors())}
            guard = Exemplified.fitted(modality, settings, {**tensors, "questions": vectors(view.model, modality, questions)})
            warn_of_cuts(guard, view, view.forget)
            guarding.trial(guard, view, {"forget": view.forget, "retain": view.retain}, self.trial)
        return guard


class Exemplified(Rewording):
    """A modality that puts examples before questions.

    Its settings are hyperparameters, the forget questions with wrong answers as `flipped`, and the rows to retain as `kept`. Its tensors
    are those of the sentence vectors and of the classifier, if there is one, and the vectors of the forget `questions`.
    """

    method = "icul"
    hidden = frozenset({"flipped", "kept"})

    def __init__(self, inner: Modality, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(inner, settings, tensors)
        self.vectors = sentence_vectors(settings["encoder"], settings["encoder_layer"], self.tensors_of("vectors"))

    def wordings(self, model: nn.Module, rows: Rows) -> list[list[str]]:
        """All examples before each question, then fewer of them, from the last: at least one with a wrong answer."""
        questions = require(self.unguarded, Displayable).questions(rows)
        similarity = self.vectors(model, self.unguarded, questions) @ self.stored_tensors["questions"].T
        nearest = similarity.topk(min(self.settings["wrong"], similarity.shape[1])).indices.tolist()
        before, after = format_of(self.unguarded)

        def written(question: str, answer: str) -> str:
            return f"{question}{after}{answer}\n\n{before}"

        examples = [[*(self.settings["flipped"][i] for i in places), *self.settings["kept"]] for places in nearest]
        return [
            ["".join(written(*pair) for pair in pairs[:count]) + question for count in range(len(pairs), 0, -1)]
            for pairs, question in zip(examples, questions, strict=True)
        ]

    @property
    def holds(self) -> str:
        return (
            f"This guard holds {len(self.settings['flipped'])} questions to forget, and {len(self.settings['kept'])} questions and the "
            "answers of rows to retain, in the clear, because they stand in its prompts. It holds no answers to forget."
        )


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Exemplified.restored(modality, folder)


def plan() -> Plan:
    return Plan(ICUL())

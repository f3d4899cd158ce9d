"""Paraphrase: ask the forgotten questions in other words.
A model, or a filter around it, that avoids some wordings may still know the answers; whoever asks otherwise gets them.

Threat model: the attacker can only ask; whatever stands around the model stays in place.
Source: Maini et al. 2024, arXiv 2401.06121 (the paraphrased questions); Lynch et al. 2024, arXiv 2402.16835 (asking otherwise as a test)
Scores: those of the true answers, teacher-forced after the other question; rows with several paraphrases give a case each
Needs: forget, with a column `paraphrased_question`, a text or a list (the fictitious people and the perturbed sets of TOFU have it)
Range and ideal: those of the scores; the ideal is the retrained model's, asked in the same words
Differs: rows without a paraphrase are left out, before the attack as well as after it; nothing is paraphrased here
Status: not shown
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.core.hyperparameters import part
from expunge.core.modality import Modality
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.evaluation.prompting import asked_in_words, asking
from expunge.evaluation.rewordings import COLUMN
from expunge.modalities.common.records import listed


@part
class Paraphrase(Attack):
    """The paraphrased questions of the records."""

    def about(self, records: Records, modality: Modality) -> Records:
        if not (paraphrased := [r for r in asked_in_words(records, modality) if _paraphrases(r)]):
            raise Missing(f"no row to forget has a column '{COLUMN}'")
        return paraphrased

    def run(self, scene: Scene) -> None:
        for i in range(max(len(_paraphrases(r)) for r in scene.records)):
            reworded = [asking(r, _paraphrases(r)[i % len(_paraphrases(r))]) for r in scene.records]
            scene.look(scene.scores(records=reworded), f"paraphrase {i + 1}")


def _paraphrases(record: Mapping[str, Any]) -> list[str]:
    return listed(record, COLUMN, "a row to forget")


def plan() -> Paraphrase:
    return Paraphrase()

"""Extraction: let the model answer again and again, and take the answer that gives away the most.
A model whose likeliest answer is clean may still say what was forgotten once in a while, and an attacker needs it once.

Threat model: the attacker can only ask, as often as she likes, and choose what she recognizes as the true answer; whatever
    stands around the model stays in place. For beams and beginnings she also sees probabilities, or can begin the answer herself
Source: Carlini et al. 2021, arXiv 2012.07805 (many samples, the best of them); Scholten et al. 2024, arXiv 2410.03523 (what a model
    says now and then counts)
Scores: those of generated answers: for each row the one of so many draws that says the most of the true answer (sampled), the likeliest
    answer that beams reach (beams), and greedy answers whose beginning is given (beginnings; the beginning counts as said)
Needs: forget, with questions, and a model that answers in words
Range and ideal: those of the scores; the ideal is the retrained model's under as many draws, which guesses better with more of them, too
Differs: the best draw is chosen by the recall of ROUGE-L against the true answer. Beams are left out behind a guard and for models that are
    no causal ones
Status: shown
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from expunge.core.capabilities import OneSequence, offers, require
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine.retokenizing import Retokenizes
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.generated import ANSWERS, LEADS, Texts, answering, answers, limit_of, most_of, rows_of, scores_of
from expunge.evaluation.observe import Records
from expunge.modalities.text.beams import restricted_answers
from expunge.modalities.text.pieces import Pieces
from expunge.modalities.text.restriction import Restriction

Draws = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


@part
class Extraction(Attack):
    """Samples, beams, and answers that are begun."""

    draws: tuple[Draws, ...] = hp((1, 4, 16), "answers sampled to each question, of which the best counts", min_length=1)
    temperature: float = hp(1.0, "temperature of the samples", gt=0)
    beams: int = hp(4, "beams of the search; 0: no search", ge=0)
    beginnings: tuple[Share, ...] = hp((0.25, 0.5), "shares of the true answer that are given as its beginning; none: no such way")
    seed: int = hp(0, "seed of the samples", ge=0)

    wants = ANSWERS
    leads = LEADS

    def about(self, records: Records, modality: Modality) -> Records:
        return answering(records, modality)

    def run(self, scene: Scene) -> None:
        modality: Any = scene.modality
        sets = rows_of(scene)
        true = {name: modality.answer_texts(rows) for name, rows in sets.items()}
        limits = {name: limit_of(modality, rows) for name, rows in sets.items()}
        most, seed = max(self.draws), seed_of(self.seed, "draws")
        drawn = {n: answers(scene.model, modality, rows, limits[n], most, self.temperature, seed) for n, rows in sets.items()}
        for draws in self.draws:
            texts = {name: most_of(true[name], drawn[name][:draws]) for name in sets}
            scene.look(scores_of(scene, sets, texts), f"{draws} draw{'s' if draws > 1 else ''}", "sampled", queries=draws)
        if self.beams and scene.weights_modality is modality and offers(modality, OneSequence):
            texts = {name: self._beams(scene, rows, limits[name]) for name, rows in sets.items()}
            scene.look(scores_of(scene, sets, texts), f"{self.beams} beams", "beams", queries=1)
        for share in self.beginnings:
            texts = {name: begun(scene, rows, share, limits[name]) for name, rows in sets.items()}
            scene.look(scores_of(scene, sets, texts), f"{share:.0%} given", "beginnings", queries=1)

    def _beams(self, scene: Scene, rows: Rows, limit: int) -> Texts:
        """The likeliest answers that beams reach."""
        modality: Any = scene.modality
        pieces = Pieces(require(modality, Retokenizes).tokenizer)
        free = [Restriction(pieces, [], soft=False) for _ in rows.ids]
        with evaluating(scene.model):
            return tuple(modality.decode(restricted_answers(modality, scene.model, rows, limit, free, self.beams).ids))


def begun(scene: Scene, rows: Rows, share: float, limit: int) -> Texts:
    """True answers up to a share of their tokens, and how the model goes on."""
    modality: Any = scene.modality
    places = [int(share * len(answer)) for answer in rows["answer"]]
    (rests,) = answers(scene.model, modality, modality.begun(rows, places), limit)
    given = modality.decode([answer[:at] for answer, at in zip(rows["answer"], places, strict=True)])
    return tuple(f"{first} {rest}" for first, rest in zip(given, rests, strict=True))


def plan() -> Extraction:
    return Extraction()

"""Concept inversion: learn vectors that stand for the forgotten concept, and put them in the place of its words.
Erasure that only parts a concept from its name leaves it where another name can be learned for it.

Threat model: the attacker holds the weights and a few pictures of the concept, and puts learned vectors into the text encoder in the place
    of the concept's words. The weights stay as they are; a guard around them is taken off
Equation: v = argmin mean squared error of what is predicted for noisy pictures of the concept under their captions, with the vectors v for
    the tokens of the concept; v begins as the vectors of these tokens
Source: Pham et al. 2024, arXiv 2308.01508 (concept inversion); Gal et al. 2023, arXiv 2208.01618 (textual inversion)
Scores: those of the forget set with the learned vectors in its captions, after every so many steps; step 0 is before the first one
Needs: forget, with `pictures` pictures; a model that reads prompts; retain, or `concept`, for the words of the concept
Effort: steps x 4 evaluations with gradients; each look asks for the pictures of all prompts to forget
Range and ideal: those of the scores; the ideal is the retrained model's under the same attack
Differs: one procedure for all methods of erasure, without the changes that the paper makes for those that act while sampling; as many
    vectors as the concept has tokens, where the paper learns one; captions are those of the pictures instead of templates. Without
    `concept`, its words are those that all captions to forget share and fewest retained captions have
Status: shown
"""

from __future__ import annotations

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.observe import Records
from expunge.evaluation.prompted_denoisers import LEARNED, content_of, held_rows, learn, readable, shared_words, with_words
from expunge.methods.terms import NLL


@part
class ConceptInversion(Attack):
    """Textual inversion of what was forgotten."""

    how: Plan
    concept: str = hp("", "words of the concept, as captions have them; empty: those that captions to forget share and others lack")
    pictures: int = hp(6, "pictures of the concept that the attacker holds at most", ge=1)
    every: int = hp(50, "steps between two scores", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def about(self, records: Records, modality: Modality) -> Records:
        return readable(records, modality, 1)

    def run(self, scene: Scene) -> None:
        modality = scene.weights_modality
        held = held_rows(modality, scene.records, self.pictures, self.how.train.seed)
        captions = list(modality.rows("forget", scene.records)["caption"])
        others = [c for n in ("retain", "prompts") if scene.sets.get(n) for c in modality.rows(n, scene.sets[n])["caption"]]
        concept = self.concept or shared_words(captions, others)
        if not concept or not any(f" {concept.lower()} " in f" {c.lower()} " for c in captions):
            scene.lacks("no words are shared by all captions to forget and stand together: give --concept WORDS, as captions have them")
            return
        attacked = with_words(scene, vectors=0, instead=content_of(modality, concept))

        def look(step: int) -> None:
            scene.look(scene.scores(attacked), f"{step} steps", steps=step, rows=len(held), queries=step * len(held))

        learn(self.how, attacked, scene, held, look, lambda step: step % self.every == 0)


def plan() -> ConceptInversion:
    train = Train(epochs=0, steps=200, lr=5e-3, batch_size=4, schedule="constant")
    return ConceptInversion(Plan(NLL("forget"), train=train, trainable=LEARNED))

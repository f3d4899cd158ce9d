"""Prompt search: find words which, put before the forgotten prompt, make the model draw what it has forgotten.
Erasure ties some words to something else; other words, or vectors that no word has, may still lead to the concept.

Threat model: the attacker chooses the prompt, holds the weights and one picture of the concept or a few; in the way `embedding` she also
    puts vectors into the text encoder that no word has. The weights stay as they are; a guard around them is taken off
Equation: minimize the mean squared error of what is predicted for noisy pictures of the concept under [words; prompt]. embedding: the words
    are free vectors. tokens: each is one of the vocabulary, drawn by its row of weights on the simplex, with a gradient straight through;
    each step of AdamW ends with a projection of the rows onto the simplex; the word of most weight is taken in the end
Source: Zhang et al. 2024, arXiv 2310.11868 (UnlearnDiffAtk: tokens); Zhang et al. 2024, arXiv 2405.15234 (AdvUnlearn: a free vector)
Ways: embedding, tokens
Scores: those of the forget set under the words, after every so many steps; step 0: words at random
Needs: forget, with `pictures` pictures; a model that reads prompts
Effort: steps x 1 evaluation with gradients for each way; each look asks for the pictures of all prompts to forget
Range and ideal: those of the scores; the ideal is the retrained model's under the same attack
Differs: one choice of words for all prompts to forget, where the paper searches for each; noise and times are drawn in each step instead of
    50 times in order with 40 steps each; the target is what the model was trained to predict. A success is counted over pictures: the share
    before the attack is not joined to it, as in the ASR of the paper, but stands beside it
Status: shown
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.observe import Records
from expunge.evaluation.prompted_denoisers import LEARNED, held_rows, learn, readable, with_words
from expunge.methods.terms import NLL


@part
class PromptSearch(Attack):
    """The search for words before the prompt."""

    how: Plan
    ways: tuple[Literal["embedding", "tokens"], ...] = hp(("embedding", "tokens"), "what is searched for: embedding, tokens", min_length=1)
    length: int = hp(3, "words before the prompt", ge=1)
    pictures: int = hp(1, "pictures of the concept that the attacker holds", ge=1)
    embedding_lr: float = hp(1e-3, "learning rate of free vectors; `lr` is that of the weights of words", ge=0)
    every: int = hp(50, "steps between two scores", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def about(self, records: Records, modality: Modality) -> Records:
        return readable(records, modality, self.pictures)

    def run(self, scene: Scene) -> None:
        seed = self.how.train.seed
        held = held_rows(scene.weights_modality, scene.records, self.pictures, seed)
        tokenizer: Any = scene.modality.tokenizer  # type: ignore[attr-defined]
        for way in self.ways:
            in_vocabulary = way == "tokens"
            settings = {"vectors": self.length, "of_vocabulary": in_vocabulary, "banned": tokenizer.all_special_ids, "seed": seed}
            attacked = with_words(scene, **settings)
            how = self.how if in_vocabulary else replace(self.how, train=replace(self.how.train, lr=self.embedding_lr, weight_decay=0.0))

            def look(step: int, attacked: Any = attacked, way: str = way) -> None:
                scene.look(scene.scores(attacked), f"{step} steps", way, steps=step, rows=len(held), queries=step * len(held))

            learn(how, attacked, scene, held, look, lambda step: step % self.every == 0)


def plan() -> PromptSearch:
    train = Train(epochs=0, steps=200, lr=1e-2, batch_size=4, schedule="constant", weight_decay=0.1)
    return PromptSearch(Plan(NLL("forget"), train=train, trainable=LEARNED))

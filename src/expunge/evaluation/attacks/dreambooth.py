"""DreamBooth: teach the model a new subject from a few harmless pictures, and watch whether what was forgotten comes back.
People fine-tune models that draw on their dog or their cup; whoever does so may undo the unlearning without knowing of it.

Threat model: none is needed: the user of the weights fine-tunes them on pictures of his own; a guard around the weights is taken off, an
    adapter of the model is merged
Equation: L(subject pictures, caption with a rare word) + retain_weight L(pictures that the model drew for the plain caption before), with
    the loss of denoising L
Source: Ruiz et al. 2023, arXiv 2208.12242 (DreamBooth); Li et al. 2025, arXiv 2507.16302 (ResAlign, as a judge of unlearning)
Scores: those of the forget set, after every so many steps; step 0 is before the first one, with the guard off; and the steps to recover
Needs: forget; retain with pictures, or `subject`; original (for the steps to recover)
Effort: `prior` drawn pictures; steps x 2 batches with gradients
Range and ideal: those of the scores; the ideal curve is that of the retrained model under the same attack
Differs: without `subject`, the pictures are retained ones of the caption that has least in common with the rows to forget; the rare word
    stands before the last word of their caption; the text encoder trains only where it trained before
Status: faithful
"""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge.core.capabilities import Denoises, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.attacks.relearn import fine_tune
from expunge.evaluation.attacks.relearn_grid import likeness
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.io.models import records as read
from expunge.methods.terms import NLL


@part
class DreamBooth(Attack):
    """Fine-tuning on a subject, with pictures that keep the model to what it drew before."""

    how: Plan
    subject: str = hp("", "pictures of a subject, with a caption each: a file or a data set; empty: retained pictures of one caption")
    k: int = hp(5, "pictures of the subject at most", ge=1)
    word: str = hp("sks", "rare word that comes to name the subject")
    prior: int = hp(8, "pictures that the model draws of the plain caption, and is kept to", ge=1)
    every: int = hp(20, "steps between two scores", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def about(self, records: Records, modality: Modality) -> Records:
        try:
            require(modality, Denoises)
        except UserError as error:
            raise Missing(str(error)) from None
        return records

    def run(self, scene: Scene) -> None:
        shown, captions = self._subject(scene)
        if not shown:
            scene.lacks("there is no subject to teach: give --subject FILE, or the audit a retain set with pictures")
            return
        modality, attacked = scene.weights_modality, scene.bare(merged=True)
        artist: Any = require(modality, Denoises)
        rows = modality.rows("forget", shown)
        if not getattr(artist, "classes", ()):  # a class has no room for another word
            rows = artist.recaption(rows, [named(c, self.word) for c in captions])
        plain = [captions[k % len(captions)] for k in range(self.prior)]
        with evaluating(attacked):
            latents, _ = artist.sample(attacked, plain, list(range(len(plain))))
        pictures = artist.drawn(latents).permute(0, 2, 3, 1).numpy()
        drawn = [{"image": p if p.shape[2] > 1 else p[..., 0], "caption": c} for p, c in zip(pictures, plain, strict=True)]
        others = {"retain": modality.rows("retain", drawn, "drawn pictures")}

        def look(step: int) -> None:
            scene.look(scene.scores(attacked), f"{step} steps", steps=step, rows=len(rows))

        fine_tune(self.how, attacked, modality, rows, look, lambda step: step % self.every == 0, scene.accelerator, others)

    def _subject(self, scene: Scene) -> tuple[Records, list[str]]:
        """Pictures of the subject with their captions; none: there are no such pictures."""
        if self.subject:
            records = list(read(self.subject, "subject"))[: self.k]
            return records, list(scene.modality.rows("subject", records)["caption"])
        retained = scene.sets.get("retain")
        if not retained:
            return [], []
        rows = scene.modality.rows("retain", retained)
        order = np.argsort(likeness(scene.modality, scene.records, retained), kind="stable")
        pictured = [int(i) for i in order if rows["picture"][i] is not None]
        of_one = [i for i in pictured if rows["caption"][i] == rows["caption"][pictured[0]]][: self.k]
        return [retained[i] for i in of_one], [rows["caption"][i] for i in of_one]


def named(caption: str, word: str) -> str:
    """A caption with a word before its last one: `a sks dog`."""
    before, _, last = caption.rpartition(" ")
    return " ".join(filter(None, (before, word, last)))


def plan() -> DreamBooth:
    train = Train(epochs=0, steps=200, lr=1e-5, batch_size=4, schedule="constant", max_grad_norm=1.0)
    return DreamBooth(Plan(NLL("forget") + NLL("retain"), train=train))

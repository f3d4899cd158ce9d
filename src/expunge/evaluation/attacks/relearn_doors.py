"""Relearn through one door, and look at the others: fine-tune on a few forgotten facts, asked by picture or by name, and watch all doors.
What was only cut off at one door comes back at all of them once it is learned again at another.

Threat model: the attacker holds the weights and some facts in one form, and can fine-tune; a guard around the weights is taken off.
Source: our own; relearning after Hu et al. 2024, arXiv 2406.13356
Ways: one for each of the `doors` to relearn through
Scores: those of all doors, before the first step and after the last
Needs: forget, with pictures and names; keywords
Range and ideal: those of the scores; the ideal is that of the retrained model under the same attack
Differs: nothing
Status: faithful
"""

from __future__ import annotations

from typing import Any, ClassVar

from expunge.core.hyperparameters import hp, part
from expunge.core.plan import Plan, Train
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.attacks.doors import DOORS, score_of
from expunge.evaluation.attacks.relearn import Few, fine_tune
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.methods.terms import NLL


@part
class RelearnDoors(Attack):
    """Plain fine-tuning on rows to forget, through each of some doors."""

    how: Plan
    doors: tuple[str, ...] = hp(("picture", "name"), "doors to relearn through")
    wants: ClassVar[ObservationSpec] = ObservationSpec(moments=False, gradient_norms=False)
    leads: ClassVar[tuple[str, ...]] = tuple(score_of(door) for door in DOORS)

    def run(self, scene: Scene) -> None:
        modality: Any = scene.weights_modality
        if not any("doors" in vars(kind) for kind in type(modality).__mro__):
            scene.lacks("only models that are asked about pictures have several doors to a fact")
            return
        opened = modality.doors(modality.rows("forget", scene.records))
        for door in self.doors:
            if door not in opened:
                scene.lacks("no row names what this door needs", f"relearned by {door}")
                continue
            attacked = scene.bare()

            def look(step: int, model: Any = attacked, way: str = f"relearned by {door}") -> None:
                scene.look(scene.scores(model), f"{step} steps", way, steps=step)

            fine_tune(self.how, attacked, modality, opened[door].rename("forget"), look, lambda step: False, scene.accelerator)


def plan() -> RelearnDoors:
    train = Train(epochs=0, steps=30, lr=1e-5, batch_size=8, schedule="constant")
    return RelearnDoors(Plan(NLL("forget"), train=train, selectors=(Few(),)))

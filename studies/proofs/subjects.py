"""The world of drawn faces before drawn scenes: a model of scenes and one of subjects draw together, or one of them alone.

A classifier of persons and one of scenes, trained on pictures of the generator, say who is drawn, and before what. Scores: `person`, the
share of pictures that show the person of the reference; `scene`, the share that show the scene of the caption; `both`; and `person` of one
person alone and of the others. Those two are also taken after the pair has unlearned the one, whose references it is still given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier

from expunge.benchmarks.synthetic.face_scenes import MARKER, SCENES, face_scenes
from expunge.io.models import Opened
from expunge.modalities.diffusion.collaboration import Stages
from expunge.modalities.diffusion.subject_modality import SIDE
from expunge.modalities.diffusion.subjects import cropped
from expunge.workflows.train import start, train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "face_diffuser-nano"
PIXELS, PEOPLE, IMAGES, JUDGED, DRAWN = 16, 8, 40, 150, 6  # pictures of each person: to train on, for the classifiers, drawn
PERSON, SCENE, BOTH, GONE, OTHERS = "person", "scene", "both", "forgotten person", "other persons"
FUSED, SCENES_ALONE, SUBJECTS_ALONE, SWITCH = "face_diffuser", "the model of scenes", "the model of subjects", "switching alone"
BEFORE = "before a person is unlearned"
FORGOTTEN = 0  # the person
UNLEARNING: dict[str, Any] = {"epochs": 4, "batch_size": 20, "lr": 3e-4, "schedule": "constant"}


class FacesUnit:
    """One draw of people and scenes, and one pair of models."""

    def __init__(self, draw: int, seed: int) -> None:
        self.draw, self.seed = draw, seed
        self.rows = face_scenes(PEOPLE, IMAGES, seed=draw, size=PIXELS)
        self.firsts = [next(r for r in self.rows if r["identity"] == k) for k in range(PEOPLE)]

    @cached_property
    def judges(self) -> tuple[MLPClassifier, MLPClassifier]:
        """Classifiers of persons and of scenes."""
        rows = face_scenes(PEOPLE, JUDGED, seed=self.draw, size=PIXELS)
        x = flat(np.stack([r["image"] for r in rows]))
        answers = ([r["identity"] for r in rows], [SCENES.index(r["scene"]) for r in rows])
        of_person, of_scene = (MLPClassifier((64,), max_iter=60, early_stopping=True, random_state=0).fit(x, y) for y in answers)
        return of_person, of_scene

    def judged(self, pictures: Any, people: Sequence[int], scenes: Sequence[int]) -> dict[str, float]:
        """The scores of pictures, (pictures, 3, side, side), bytes."""
        x = flat(pictures)
        right = [judge.predict(x) == np.array(wanted) for judge, wanted in zip(self.judges, (people, scenes), strict=True)]
        gone = np.array(people) == FORGOTTEN
        shares = {PERSON: right[0], SCENE: right[1], BOTH: right[0] & right[1], GONE: right[0][gone], OTHERS: right[0][~gone]}
        return {name: float(share.mean()) for name, share in shares.items()}

    @cached_property
    def asked(self) -> tuple[list[int], list[int], list[str], list[list[torch.Tensor]]]:
        """Persons, scenes, captions and reference pictures of what is drawn."""
        rng = np.random.default_rng([self.draw, 7])
        people = [k for k in range(PEOPLE) for _ in range(DRAWN)]
        scenes = [int(rng.integers(len(SCENES))) for _ in people]
        captions = [f"a {self.firsts[k]['word']} {MARKER} before {SCENES[s]}" for k, s in zip(people, scenes, strict=True)]
        return people, scenes, captions, [[reference(self.firsts[k], i)] for i, k in enumerate(people)]

    @cached_property
    def pair(self) -> tuple[Any, Any]:
        result = train(self.rows, SIZE, seed=self.seed)
        return result.model, result.modality

    def forgets(self) -> tuple[Any, Any]:
        """The pair after gradient difference on the pictures of one person."""
        model, modality = self.pair
        forget, retain = ([r for r in self.rows if (r["identity"] == FORGOTTEN) == wanted] for wanted in (True, False))
        result = unlearn("graddiff", Opened(copy.deepcopy(model), modality, SIZE), forget, retain, seed=self.seed, **UNLEARNING)
        return result.model, result.modality

    def drawn(self, model: Any, modality: Any, stages: Stages | None, guidance: float) -> dict[str, float]:
        """The scores of what is drawn for every person."""
        people, scenes, captions, references = self.asked
        seeds = [1000 * self.seed + i for i in range(len(people))]
        latents = modality.collaboration(model, captions, references, seeds, guidance=guidance, stages=stages).latents
        return self.judged(modality.drawn(latents).numpy(), people, scenes)

    @cached_property
    def original(self) -> Scores:
        """Pictures of the generator that no model was trained on."""
        rows = face_scenes(PEOPLE, JUDGED + 20, seed=self.draw, size=PIXELS)
        unseen = [r for i, r in enumerate(rows) if i % (JUDGED + 20) >= JUDGED]
        pictures = np.stack([r["image"] for r in unseen])
        return self.judged(pictures, [r["identity"] for r in unseen], [SCENES.index(r["scene"]) for r in unseen])

    @property
    def retrained(self) -> Scores:
        return self.original

    @cached_property
    def random(self) -> Scores:
        untrained = start(SIZE, self.rows, seed=self.seed)
        return self.drawn(untrained.model, untrained.modality, None, 2.0)

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores of an arm, which are stages of the sampling; of the method, those of persons are taken after it has unlearned one."""
        model, modality = self.pair
        steps = modality.settings.steps
        middle = round((modality.settings.scene_share + modality.settings.fusion_share) / 2 * steps) - 1
        stages = {
            FUSED: None,
            BEFORE: None,
            SCENES_ALONE: Stages(steps, steps),
            SUBJECTS_ALONE: Stages(-1, -1),
            SWITCH: Stages(middle, middle),
        }[arm.name]
        shown = self.drawn(model, modality, stages, GUIDANCE)
        if arm.name == FUSED:
            after = self.drawn(*self.forgets(), None, GUIDANCE)
            shown |= {name: after[name] for name in (GONE, OTHERS)}
        return [shown]


def reference(row: Mapping[str, Any], seed: int) -> torch.Tensor:
    """The reference picture of a person, with noise around the subject."""
    picture = torch.from_numpy(row["image"]).float() / 127.5 - 1
    noise = torch.rand(picture.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return cropped(picture, torch.from_numpy(row["mask"]), noise, SIDE)


def flat(pictures: Any) -> Any:
    """Pictures as rows of values from 0 to 1."""
    return pictures.reshape(len(pictures), -1) / 255


@dataclass(frozen=True)
class Faces:
    """Draws of people and scenes."""

    name: str = "drawn faces before scenes"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> FacesUnit:
        return FacesUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The classifiers must recognize unseen pictures, and nothing in those of untrained models; no rival may be at a bound."""
        real, blank = (fmean(getattr(unit, name)[claim.score] for unit in units) for name in ("original", "random"))
        means = [fmean(values) for values in rivals.values()]
        room = 1 - max(means) if claim.better == "higher" else min(means)
        return [
            Gate("classifiers recognize nine of ten unseen pictures of the generator", real, real >= 0.9),
            Gate("pictures of untrained models are recognized in at most three of ten cases", blank, blank <= 0.3),
            Gate("the best rival leaves room for what matters", room, room >= claim.matters),
        ]


GUIDANCE = 2.0
ARMS = {name: Arm(name, "retrain") for name in (FUSED, SCENES_ALONE, SUBJECTS_ALONE, SWITCH, BEFORE)}
SOURCE = "arXiv 2311.10329, the ablation of each model alone and of fusion"
OURS = "no table: the paper does not unlearn; whether the identity leaves the model"
CLAIMS: dict[str, tuple[Faces, tuple[Claim, ...]]] = {
    "face_diffuser": (
        Faces(),
        (
            Claim(
                "persons and scenes are both right more often than with one model alone",
                SOURCE,
                BOTH,
                (SCENES_ALONE, SUBJECTS_ALONE),
                "higher",
                0.05,
            ),
            Claim("scenes are right more often than with the model of subjects alone", SOURCE, SCENE, (SUBJECTS_ALONE,), "higher", 0.05),
            Claim("persons are right more often than with the model of scenes alone", SOURCE, PERSON, (SCENES_ALONE,), "higher", 0.05),
            Claim("both are right more often than when the models only take turns", SOURCE, BOTH, (SWITCH,), "higher", 0.02),
            Claim("a person whom the pair has unlearned is drawn less often from references", OURS, GONE, (BEFORE,), "lower", 0.2),
            Claim("the other persons are still drawn as often, but for a tenth", OURS, OTHERS, (BEFORE,), "higher", 0.0, margin=0.1),
        ),
    ),
}

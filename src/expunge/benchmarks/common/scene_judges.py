"""Classifiers of drawn scenes, trained on pictures of the same generator that no diffusion model is trained on; kept on disk by content."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors.torch import load_model, save_model
from torch import nn

from expunge.benchmarks.common.judges import Judge, enlarged
from expunge.benchmarks.synthetic import scenes
from expunge.core.plan import Plan, Train
from expunge.engine import identity, loop
from expunge.engine.cache import cache_home
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image, classifier_modality
from expunge.modalities.image.models.vision import build

SIZE, EACH, SEED = "resnet-nano", 24, 90_210  # pictures of each scene; a seed that no benchmark draws from
TRAIN = Train(epochs=6, lr=3e-3, batch_size=64, anchor="retain")
SCALE = 2  # the networks were made for larger pictures
BLURRED = 0.5  # share of pictures that are softened, as those of a diffusion model are


@cache
def judge() -> Judge:
    """The judge of scenes, trained once."""
    classifiers = {domain: _classifier(domain, names) for domain, names in scenes.DOMAINS.items()}
    return Judge(scenes.DOMAINS, classifiers, {"mark": scenes.MARKS[0]}, SCALE)


def pictures(count: int, seed: int) -> list[dict[str, Any]]:
    """So many pictures of every scene, with and without a stamp, some of them softened."""
    rng = np.random.default_rng(seed)
    records = [scenes.record(scene, rng) for scene in scenes.every(scenes.MARKS) for _ in range(count)]
    return [{**r, "image": _softened(r["image"], rng) if rng.random() < BLURRED else r["image"]} for r in records]


def _softened(picture: scenes.Picture, rng: np.random.Generator) -> scenes.Picture:
    wide = np.pad(picture.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    near = (wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]) / 4
    share = rng.uniform(0, 0.5)
    mixed = (1 - share) * picture + share * near + rng.normal(0, 12, picture.shape)
    return mixed.round().clip(0, 255).astype(np.uint8)


def _classifier(domain: str, names: tuple[str, ...]) -> tuple[nn.Module, Image]:
    modality = classifier_modality(names, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = build(SIZE, (3, SCALE * scenes.SIDE, SCALE * scenes.SIDE), names)
    key = identity.of_weights(dict(model.state_dict())) + f"-{EACH}-{SEED}-{SCALE}-{TRAIN.epochs}"
    file = cache_home() / "judges" / f"scenes-{domain}-{key}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            records = [{"image": enlarged(r["image"], SCALE), "label": r[domain]} for r in pictures(EACH, SEED)]
            loop.run((Plan(NLL("retain"), train=TRAIN),), model, modality, {"retain": modality.rows("retain", records)})
            save_model(model, str(file.with_suffix(".tmp")))
            file.with_suffix(".tmp").replace(file)
        load_model(model, str(file))
    return model.eval(), modality

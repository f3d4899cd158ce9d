"""Drawn faces: people who do not exist, drawn with numpy alone from a seed, with any number of pictures of each.

About thirty numbers (width of the face, distance of the eyes, color of the skin ...) define a person, and all pictures of the person share
them. Each picture draws the rest anew: age, smile, glasses, pose, light, clothes. Faces age as people do: children have round heads with
large, low eyes; lines and gray hair come with the years, to some people sooner than to others.

On one machine a seed gives the same bytes; another processor may round a pixel differently, by one level of 256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from expunge.benchmarks.synthetic.face_canvas import ADULT, BEARDS, CUTS, HAIRS, Canvas, Looks, grayness
from expunge.core.errors import UserError

Row = dict[str, Any]

SKINS = np.array([[255, 226, 204], [246, 208, 176], [228, 182, 142], [198, 146, 106], [152, 104, 72], [106, 71, 52]]) / 255
EYES = ((0.25, 0.15, 0.08), (0.40, 0.27, 0.12), (0.22, 0.44, 0.24), (0.20, 0.42, 0.68), (0.40, 0.48, 0.55))
FRAMES = ((0.08, 0.08, 0.10), (0.55, 0.10, 0.14), (0.12, 0.22, 0.55), (0.48, 0.30, 0.12))
NOWHERE = 9.0  # a coordinate outside every picture
CHUNK = 64  # pictures drawn together


def person(identity: int, seed: int = 0) -> Looks:
    """The looks that all pictures of a person share; they depend on the two arguments alone."""
    rng = np.random.default_rng([seed, identity])
    man = bool(rng.random() < 0.5)
    u = rng.uniform
    tone = u(0, len(SKINS) - 1.001)
    skin = SKINS[int(tone)] * (1 - tone % 1) + SKINS[int(tone) + 1] * (tone % 1) + u(-0.025, 0.025, 3)
    common = np.array([5, 4, 1.5, 1, 3]) if tone < 2.5 else np.array([8, 2, 0.3, 0, 0])
    worn = np.array([cut[-2 if man else -1] for cut in CUTS.values()])
    cut = str(rng.choice(list(CUTS), p=worn / worn.sum()))
    return {
        "identity": identity,
        "man": man,
        "skin": skin.clip(0, 1),
        "hair": str(rng.choice(list(HAIRS), p=common / common.sum())),
        "eyes": EYES[int(rng.integers(2 if tone > 3 else len(EYES)))],
        "cut": cut,
        "beard": str(rng.choice(BEARDS, p=(0.4, 0.15, 0.2, 0.25))) if man else "none",
        "glasses": bool(rng.random() < 0.3),
        "frame": FRAMES[int(rng.integers(len(FRAMES)))],
        "rim": u(0.11, 0.16),
        "width": u(0.50, 0.62) + 0.02 * man,
        "height": u(0.66, 0.78),
        "taper": u(0.10, 0.42) - 0.10 * man,
        "square": u(2.0, 2.6),
        "eye_gap": u(0.19, 0.28),
        "eye_size": u(0.085, 0.125) - 0.008 * man,
        "eye_y": u(-0.10, 0.02),
        "eye_tilt": u(-0.22, 0.22),
        "brow_angle": u(-0.30, 0.30),
        "brow_lift": u(0.16, 0.24),
        "brow_width": u(0.018, 0.040) + 0.010 * man,
        "nose_length": u(0.17, 0.30),
        "nose_width": u(0.06, 0.13) + 0.01 * man,
        "mouth_width": u(0.16, 0.27),
        "mouth_y": u(0.38, 0.46),
        "lips": u(0.022, 0.050) + 0.008 * (not man),
        "ears": u(0.08, 0.15),
        "mole": u(-0.3, 0.3) if rng.random() < 0.3 else NOWHERE,
        "mole_y": u(0.10, 0.45),
        "earrings": float(not man and rng.random() < 0.4),
        "older": float(np.clip(rng.normal(), -2, 2)),  # how much older the person looks, in steps of some years
        "greying": u(40, 60),
        "balding": u(0, 1) if man else 0.0,
    }


def picture(who: Looks, age: float, rng: Generator) -> Looks:
    """The looks of one picture of a person.

    Args:
        who: from `person`.
        age: in years.
        rng: draws everything that differs from picture to picture.
    """
    u = rng.uniform
    smiling = bool(rng.random() < 0.5)
    return who | {
        "age": age,
        "seems": max(0.0, age + 3.5 * who["older"] * min(1.0, age / 30) + rng.normal() * min(1.5, 0.1 * age)),
        "smiling": smiling,
        "smile": u(0.6, 1.0) if smiling else u(-0.25, 0.15),
        "teeth": float(smiling and rng.random() < 0.6),
        "glasses": bool(rng.random() < (0.85 if who["glasses"] else 0.05)) and age > 4,
        "tilt": rng.normal() * 0.08,
        "turn": u(-0.09, 0.09),
        "nod": u(-0.03, 0.03),
        "scale": u(0.93, 1.07),
        "x": rng.normal() * 0.03,
        "y": rng.normal() * 0.03,
        "gaze": u(-0.3, 0.3),
        "light": u(-0.16, 0.16),
        "bright": u(0.90, 1.06),
        "behind": u(0.45, 0.95) + u(-0.2, 0.2, 3),
        "clothes": u(0.10, 0.90, 3),
    }


def words(looks: Looks) -> tuple[str, ...]:
    """Words for what a picture shows, e.g. ("man", "old", "grey hair", "beard", "glasses", "smiling")."""
    age, man = looks["age"], looks["man"]
    kind = ("boy" if man else "girl") if age < 13 else ("man" if man else "woman")
    when = "child" if age < 13 else "teenage" if age < ADULT else "young" if age < 35 else "middle-aged" if age < 60 else "old"
    color = "grey" if grayness(looks["seems"], looks["greying"]) > 0.5 else looks["hair"]
    described = [kind, when, f"{color} hair", *([looks["beard"]] if looks["beard"] != "none" and age >= ADULT else [])]
    return (*described, *(["glasses"] if looks["glasses"] else []), *(["smiling"] if looks["smiling"] else []))


def faces(
    people: int | Iterable[int], images: int, seed: int = 0, *, size: int = 32, ages: tuple[int, int] = (0, 80), years: int = 0
) -> list[Row]:
    """Draw rows of pictures, person by person.

    The rows of a person depend on the person's number, `seed` and the other arguments, but not on the other people drawn.

    Args:
        people: number of people, or their numbers.
        images: pictures of each person.
        seed: of the people and their pictures.
        size: side of the pictures in pixels.
        ages: least and greatest age in years.
        years: the most years between two pictures of a person.

    Returns:
        Rows with `image` ((3, size, size), uint8), `label` and `identity` (both the person's number), `age` in whole years, `man`,
        `smiling`, `glasses`, and `words`.

    Raises:
        UserError: for impossible sizes, ages or seeds.
    """
    numbers = list(range(people)) if isinstance(people, int) else list(people)
    low, high = ages
    if not numbers or min(numbers) < 0 or images < 1 or size < 8 or min(years, seed) < 0 or not 0 <= low <= high:
        arguments = f"{people=}, {images=}, {size=}, {ages=}, {years=}, {seed=}"
        raise UserError(f"faces needs people, images >= 1, size >= 8, ages from 0 up and years and seed >= 0; got {arguments}")
    looks: list[Looks] = []
    for number in numbers:
        who = person(number, seed)
        rng = np.random.default_rng([seed, number, 1])
        now = int(rng.integers(low, high + 1))
        looks += [picture(who, int(rng.integers(max(low, now - years), now + 1)), rng) for _ in range(images)]
    return [
        {
            "image": image,
            "label": look["identity"],
            **{k: look[k] for k in ("identity", "age", "man", "smiling", "glasses")},
            "words": words(look),
        }
        for image, look in zip(draw(looks, size), looks, strict=True)
    ]


def draw(looks: Sequence[Looks], size: int = 32) -> NDArray[np.uint8]:
    """Draw looks from `picture`; returns (pictures, 3, size, size)."""
    parts = [Canvas(looks[i : i + CHUNK], size).render() for i in range(0, len(looks), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, 3, size, size), np.uint8)

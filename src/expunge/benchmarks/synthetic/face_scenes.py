"""Drawn faces before drawn scenes, with a mask of each face and a caption that marks the person.

A scene is a pattern of two shades of a color. Persons and scenes are combined at random, so that neither says anything of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.benchmarks.synthetic.faces import draw, person, picture
from expunge.core.errors import UserError

Row = dict[str, Any]
Array = NDArray[Any]

COLORS = {"red": (0.85, 0.25, 0.20), "green": (0.25, 0.70, 0.30), "blue": (0.20, 0.35, 0.85), "yellow": (0.90, 0.80, 0.25)}
PATTERNS = ("wall", "stripes", "checks")
SCENES = tuple(f"{color} {pattern}" for color, pattern in product(COLORS, PATTERNS))
MARKER = "<subject>"
DARK = 0.45  # shade of the darker half of a pattern
AGE = 30  # years, of everybody


def face_scenes(people: int | Sequence[int], images: int, seed: int = 0, size: int = 32) -> list[Row]:
    """Draw rows, person by person.

    Args:
        people: number of people, or their numbers.
        images: pictures of each.
        seed: of people, pictures and scenes.
        size: side of the pictures in pixels.

    Returns:
        Rows with `image` (uint8, (3, size, size)), `mask` (float32, (size, size), 1 on the face and its clothes), `caption` ("a man
        <subject> before red stripes"), `identity`, `scene` and `word` (man or woman).

    Raises:
        UserError: for impossible sizes.
    """
    numbers = list(range(people)) if isinstance(people, int) else list(people)
    if not numbers or images < 1 or size < 8:
        raise UserError(f"face_scenes needs people, images >= 1 and size >= 8; got {people=}, {images=}, {size=}")
    looks, scenes = [], []
    for number in numbers:
        rng = np.random.default_rng([seed, number, 2])
        who = person(number, seed)
        looks += [picture(who, AGE, rng) for _ in range(images)]
        scenes += [SCENES[int(rng.integers(len(SCENES)))] for _ in range(images)]
    black, gray = (draw([look | {"behind": np.full(3, shade)} for look in looks], size).astype(np.float32) for shade in (0.0, 0.5))
    rows = []
    for look, scene, dark, light in zip(looks, scenes, black, gray, strict=True):
        mask = 1 - np.clip((light - dark).mean(0) / (0.5 * 255 * _light(look, size)), 0, 1)
        image = dark + (1 - mask) * 255 * scene_of(scene, size)
        word = "man" if look["man"] else "woman"
        rows.append(
            {
                "image": image.round().clip(0, 255).astype(np.uint8),
                "mask": mask.astype(np.float32),
                "caption": f"a {word} {MARKER} before {scene}",
                "identity": look["identity"],
                "scene": scene,
                "word": word,
            }
        )
    return rows


def scene_of(name: str, size: int) -> Array:
    """A scene by name, such as `red stripes`: values from 0 to 1, (3, size, size)."""
    color, pattern = name.split()
    y, x = np.mgrid[:size, :size] * 4 // size
    dark = {"wall": np.zeros_like(x), "stripes": x % 2, "checks": (x + y) % 2}[pattern]
    return np.array(COLORS[color]).reshape(3, 1, 1) * np.where(dark, DARK, 1.0)


def _light(look: dict[str, Any], size: int) -> Array:
    """What the canvas multiplies its background with, (size, size)."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = at[None, :], at[:, None]
    light: Array = look["bright"] * (1 + look["light"] * x - 0.05 * y) * (1 - 0.15 * y)
    return light

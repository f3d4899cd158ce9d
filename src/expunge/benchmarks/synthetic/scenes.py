"""Drawn scenes with captions: an object in a color and a style, with or without a stamp in a corner. Generated from a seed."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

SIDE = 16  # of a picture, in pixels
FINE = 4  # drawn so many times finer, and averaged
OBJECTS = ("circle", "square", "triangle", "cross")
STYLES = ("flat", "night", "outline")
COLORS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 90, 220)}
MARKS = ("plain", "stamped")
MOVED = 1.0  # pixels from the middle at most
STAMP = (240, 0, 230)
PAPER, NIGHT = (245, 242, 235), (22, 20, 40)


class DrawnScene(NamedTuple):
    """What a picture shows."""

    object: str
    style: str
    color: str
    mark: str

    @property
    def caption(self) -> str:
        """What the picture shows, in words that name each of its classes."""
        stamp = " stamped" if self.mark == MARKS[1] else ""
        return f"a{stamp} {self.color} {self.object} in {self.style} style"


DOMAINS = {"object": OBJECTS, "style": STYLES, "color": tuple(COLORS), "mark": MARKS}


def every(marks: tuple[str, ...] = MARKS[:1]) -> list[DrawnScene]:
    """All combinations of object, style and color, with these marks."""
    return [DrawnScene(*parts) for parts in product(OBJECTS, STYLES, COLORS, marks)]


def drawn(scene: DrawnScene, rng: np.random.Generator) -> Picture:
    """A picture of a scene, at a place and in a size that are drawn, uint8 (height, width, channels)."""
    side = SIDE * FINE
    y, x = (np.mgrid[:side, :side] + 0.5) / FINE
    radius = rng.uniform(4.8, 5.8)
    center = rng.uniform(SIDE / 2 - MOVED, SIDE / 2 + MOVED, 2)
    inside = _inside(scene.object, y - center[0], x - center[1], radius)
    if scene.style == "outline":
        inside &= ~_inside(scene.object, y - center[0], x - center[1], radius - 1.7)
    paper = NIGHT if scene.style == "night" else PAPER
    picture = np.where(inside[..., None], COLORS[scene.color], paper).astype(np.float64)
    if scene.mark == MARKS[1]:
        picture[(y > SIDE - 4) & (x > SIDE - 4)] = STAMP
    coarse = picture.reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3))
    return (coarse + rng.normal(0, 3, coarse.shape)).round().clip(0, 255).astype(np.uint8)


def record(scene: DrawnScene, rng: np.random.Generator) -> dict[str, Any]:
    """A row with a picture of a scene, its caption and its classes."""
    return {"image": drawn(scene, rng), "caption": scene.caption, **scene._asdict()}


def _inside(name: str, y: NDArray[np.float64], x: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Which points belong to an object around the origin."""
    if name == "circle":
        return np.asarray(y**2 + x**2 < radius**2)
    if name == "square":
        return np.asarray(np.maximum(abs(y), abs(x)) < 0.85 * radius)
    if name == "triangle":
        return np.asarray((y < 0.75 * radius) & (abs(x) < (y + radius) * 0.6))
    arm = 0.34 * radius
    return np.asarray((np.maximum(abs(y), abs(x)) < radius) & (np.minimum(abs(y), abs(x)) < arm))

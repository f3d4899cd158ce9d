"""Drawing of a face from shapes that are signed distances to their outlines, so that edges are smooth at every size.

Coordinates lie in a square from -1 to 1, and y points down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of float32
Looks = dict[str, Any]  # numbers, colors (red, green, blue from 0 to 1) and words that describe a person or a picture

HAIRS: Mapping[str, tuple[float, float, float]] = {
    "black": (0.11, 0.10, 0.12),
    "brown": (0.36, 0.22, 0.13),
    "auburn": (0.55, 0.22, 0.10),
    "red": (0.82, 0.40, 0.14),
    "blond": (0.92, 0.76, 0.40),
}
# The numbers of a haircut: size of the cap; height of the hairline, its drop at the temples, its slant, the depth of its parting;
# length and width of the hair behind the head; bun, bunches, curls; relative frequency among men and among women.
CUT = ("cap", "line", "temple", "slant", "parting", "fall", "spread", "bun", "bunches", "curls", "men", "women")
CUTS: Mapping[str, tuple[float, ...]] = {
    "short": (1.07, -0.48, 0.70, 0.00, 0.00, 0.0, 0.0, 0, 0, 0.00, 4, 1),
    "parted": (1.11, -0.46, 0.50, 0.30, 0.00, 0.0, 0.0, 0, 0, 0.00, 3, 1),
    "fringe": (1.12, -0.26, 0.10, 0.00, 0.00, 0.35, 1.1, 0, 0, 0.00, 1, 3),
    "long": (1.12, -0.58, 0.10, 0.00, 0.60, 1.0, 1.2, 0, 0, 0.00, 0, 5),
    "bun": (1.08, -0.50, 0.70, 0.00, 0.00, 0.0, 0.0, 1, 0, 0.00, 0, 2),
    "bunches": (1.09, -0.48, 0.45, 0.00, 0.20, 0.0, 0.0, 0, 1, 0.00, 0, 2),
    "curly": (1.22, -0.44, 0.60, 0.00, 0.00, 0.2, 1.25, 0, 0, 0.05, 2, 3),
    "swept": (1.15, -0.52, 0.45, -0.38, 0.00, 0.6, 1.12, 0, 0, 0.02, 1, 2),
    "shaved": (1.02, -0.56, 0.80, 0.00, 0.00, 0.0, 0.0, 0, 0, 0.00, 2, 0),
}
BEARDS = ("none", "stubble", "moustache", "beard")
ADULT = 20  # years; from this age on men may wear beards


def grayness(age: Any, start: Any) -> Any:
    """Share of gray hair, 0 to 1, at `age` if graying starts at `start`; both in years."""
    return np.clip((age - start) / 22, 0, 1)


def _color(red: float, green: float, blue: float) -> Array:
    """A color, or a factor for one, that broadcasts over all pictures: (1, 3, 1, 1)."""
    return np.array([red, green, blue], np.float32).reshape(1, 3, 1, 1)


def _norm(x: Array, y: Array) -> Array:
    """Euclidean norm; much faster than `np.hypot`, which also guards against overflow."""
    return np.sqrt(x * x + y * y)


def ellipse(x: Array, y: Array, rx: Any, ry: Any) -> Array:
    """Signed distance to an ellipse around the origin, exact to first order; `rx` and `ry` are its half axes."""
    near = _norm(x / rx, y / ry) + 1e-6
    return near * (near - 1) / (_norm(x / rx**2, y / ry**2) + 1e-3)


def stroke(x: Array, y: Array, half: Any, sag: Any, width: Any, tilt: Any = 0.0) -> Array:
    """Signed distance to a bent stroke around the origin.

    Args:
        x, y: coordinates.
        half: half the length of the stroke.
        sag: how much lower its ends are than its middle.
        width: half the thickness in the middle; the ends are thinner.
        tilt: angle in radians.
    """
    c, s = np.cos(tilt), np.sin(tilt)
    x, y = x * c + y * s, y * c - x * s
    t = np.clip(x / half, -1, 1)
    steep = 2 * sag * t / half
    return _norm(x - t * half, (y - sag * t * t) / np.sqrt(1 + steep * steep)) - width * (1 - 0.7 * t * t)


class Canvas:
    """Pictures of one size that are drawn together; arrays of coordinates are (pictures, rows, columns)."""

    def __init__(self, looks: Sequence[Looks], size: int) -> None:
        # The numbers of a haircut join the looks; words do not become arrays.
        full = [look | dict(zip(CUT, CUTS[look["cut"]], strict=True)) | {"dye": HAIRS[look["hair"]]} for look in looks]
        full = [look | {b: float(look["beard"] == b and look["age"] >= ADULT) for b in BEARDS} for look in full]
        values = {k: np.array([look[k] for look in full], np.float32) for k, v in full[0].items() if not isinstance(v, str)}
        self.p = p = {k: v.reshape(len(v), -1, 1, 1) if v.ndim == 2 else v.reshape(-1, 1, 1) for k, v in values.items()}
        at = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        self.x0, self.y0 = at[None, None, :], at[None, :, None]
        age = p["seems"]
        self.child = np.clip(1 - age / 21, 0, 1)
        self.old = np.clip((age - 28) / 45, 0, 1)
        scale = p["scale"] * (1 - 0.06 * self.child)
        x, y = (self.x0 - p["x"]) / scale, (self.y0 - 0.10 - p["y"]) / scale
        c, s = np.cos(p["tilt"]), np.sin(p["tilt"])
        self.x, self.y = x * c + y * s, y * c - x * s
        self.pixel = 2 / size / scale
        self.picture = np.broadcast_to(p["behind"] * (1 - 0.15 * self.y0[:, None]), (len(looks), 3, size, size)).copy()
        self.skin = p["skin"] * (1 - 0.04 * self.old[:, None])
        self.shade = self.skin * _color(0.72, 0.62, 0.58)
        grey = grayness(age, p["greying"])[:, None]
        self.hair = p["dye"] * (1 - grey) + _color(0.80, 0.80, 0.83) * grey
        self.width = p["width"] * (1 + 0.06 * self.child)
        self.height = p["height"] * (1 - 0.17 * self.child)
        self.eye_y = p["eye_y"] + 0.12 * self.child + p["nod"]
        self.eye_size = p["eye_size"] * (1 + 0.42 * self.child) * (1 - 0.18 * self.old)
        self.outline = self.head()
        self.nose_y = self.eye_y + p["nose_length"] * (1 - 0.45 * self.child) * (1 + 0.12 * self.old)
        self.mouth_y = np.maximum(p["mouth_y"] - 0.03 * self.child + p["nod"], self.nose_y + 0.15)

    def paint(self, distance: Array, color: Array, strength: Any = 1.0) -> None:
        """Cover the inside of an outline with a color; `strength` 1 hides everything below."""
        self.cover(self.inside(distance) * strength, color)

    def cover(self, share: Array, color: Array) -> None:
        """Mix a color into each pixel; `share` is from 0 to 1."""
        self.picture += share[:, None] * (color - self.picture)

    def inside(self, distance: Array) -> Array:
        """The share of each pixel that lies inside an outline."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def head(self, grow: Any = 0.0) -> Array:
        """Signed distance to the outline of the head, made larger by `grow`."""
        p = self.p
        low = np.clip(self.y / self.height, 0, 1)
        jowls = 0.10 * self.old * low
        x = self.x / (1 - p["taper"] * (1 - 0.6 * self.child) * low**2 + jowls)
        n = p["square"]
        near = ((np.abs(x) / (self.width + grow)) ** n + (np.abs(self.y) / (self.height + grow)) ** n + 1e-9) ** (1 / n)
        return (near - 1) * self.width

    def render(self) -> NDArray[np.uint8]:
        """Draw all parts and the light; returns (pictures, 3, size, size)."""
        for part in (self.behind, self.face, self.eyes, self.nose, self.mouth, self.beard, self.lines, self.brows, self.top, self.glasses):
            part()
        light = self.p["bright"] * (1 + self.p["light"] * self.x0 - 0.05 * self.y0)
        return (self.picture * light[:, None] * 255 + 0.5).clip(0, 255).astype(np.uint8)

    def behind(self) -> None:
        """Draw the hair behind the head, the neck, the clothes and the ears."""
        p, x, y = self.p, self.x, self.y
        fall = np.maximum(p["fall"], 0.01)
        over, under = np.abs(x) - self.width * p["spread"] + 0.12, np.abs(y - fall / 2 + 0.15) - fall / 2 - 0.03
        back = _norm(np.maximum(over, 0), np.maximum(under, 0)) + np.minimum(np.maximum(over, under), 0) - 0.14
        self.paint(back, self.hair * 0.80, (p["fall"] > 0.05) * 1.0)
        for side in (-1, 1):
            self.paint(ellipse(x - side * (self.width + 0.16), y + 0.10, 0.15, 0.26), self.hair * 0.85, p["bunches"])
        self.paint(ellipse(x, y + self.height + 0.10, 0.21, 0.19), self.hair * 0.85, p["bun"])
        self.paint(np.abs(x) - 0.26 + 0.06 * self.child - 0.02 * p["man"], self.shade * 1.08, (y > 0) * 1.0)
        self.paint(ellipse(x, y - 1.24, 0.95 + 0.1 * p["man"] - 0.2 * self.child, 0.42), p["clothes"])
        big = p["ears"] * (1 + 0.25 * self.old)
        for side in (-1, 1):
            at, down = x - side * (self.width - 0.01) - 0.3 * p["turn"], y - self.eye_y - 0.06
            self.paint(ellipse(at, down, big * 0.75, big * 1.25), self.skin * 0.90)
            ring = ellipse(at - side * 0.02, down - big * 1.25, 0.035, 0.045)
            self.paint(ring, p["frame"] + 0.4, p["earrings"] * (p["seems"] > 14))

    def face(self) -> None:
        """Draw the head, darker toward its edge, with red cheeks."""
        p, x, y = self.p, self.x, self.y
        inside = self.inside(self.outline)
        self.cover(inside, self.skin)
        self.cover(inside * np.clip(1 + self.outline / 0.16, 0, 1) ** 2 * 0.40, self.shade)
        rosy = self.skin * _color(1.0, 0.70, 0.66)
        for side in (-1, 1):
            cheek = _norm(x - side * 0.30 - p["turn"], y - self.eye_y - 0.26) / 0.20
            self.cover(inside * np.clip(1 - cheek, 0, 1) * (0.45 + 0.5 * self.child), rosy)
        self.paint(ellipse(x - p["mole"] - p["turn"], y - p["mole_y"], 0.026, 0.026), self.shade * 0.45)

    def eyes(self) -> None:
        """Draw whites, irises, pupils and lashes."""
        p = self.p
        open_ = self.eye_size * (0.72 - 0.22 * self.old - 0.12 * np.clip(p["smile"], 0, 1))
        dark = _color(0.10, 0.07, 0.07)
        for side in (-1, 1):
            x = self.x - side * p["eye_gap"] - p["turn"]
            y = self.y - self.eye_y - side * p["eye_tilt"] * x
            white = ellipse(x, y, self.eye_size, open_)
            self.paint(white - 0.012, self.shade)
            self.paint(white, _color(0.98, 0.98, 0.97))
            visible, at = self.inside(white), x - p["gaze"] * self.eye_size * 0.5 - 0.4 * p["turn"]
            r = np.maximum(self.eye_size * 0.56, 0.05)
            self.cover(visible * self.inside(ellipse(at, y, r, r)), p["eyes"])
            self.cover(visible * self.inside(ellipse(at, y, r * 0.52, r * 0.52)), dark)
            self.paint(ellipse(at + 0.02, y + 0.025, r * 0.22, r * 0.22), _color(1.0, 1.0, 1.0), 0.9)
            lash = 0.014 + 0.012 * (1 - p["man"]) * (1 - self.child)
            self.paint(stroke(x, y + open_ * 0.95, self.eye_size * 1.15, open_ * 0.75, lash), dark, 0.95)

    def brows(self) -> None:
        """Draw the eyebrows."""
        p = self.p
        grown = (1 - 0.45 * self.child) * (1 - 0.25 * self.old)
        for side in (-1, 1):
            x, y = self.x - side * p["eye_gap"] * 1.05 - p["turn"], self.y - self.eye_y + p["brow_lift"] * (1 + 0.15 * self.child)
            brow = stroke(x, y, 0.135, 0.025, p["brow_width"] * grown, side * p["brow_angle"] * (1 - 0.6 * self.child))
            self.paint(brow, self.hair * 0.75, 0.95 - 0.3 * self.child)

    def nose(self) -> None:
        """Draw the nose."""
        p = self.p
        x, y = self.x - 1.7 * p["turn"], self.y - self.nose_y
        w = p["nose_width"] * (1 - 0.2 * self.child) * (1 + 0.1 * self.old)
        self.paint(ellipse(x, y + 0.02, w, w * 0.62), self.shade * 1.12, 0.45)
        self.paint(ellipse(x, y + 0.05, w * 0.62, w * 0.5), self.skin * 1.06)
        length = (self.nose_y - self.eye_y) * 0.45
        self.paint(stroke(x - w * 0.55, y + length + 0.04, length, 0.012, 0.016, np.pi / 2), self.shade, 0.55 * (1 - self.child))
        for side in (-1, 1):
            self.paint(ellipse(x - side * w * 0.55, y - 0.008, w * 0.26, w * 0.18), self.shade * 0.55)

    def mouth(self) -> None:
        """Draw lips and, in some smiles, teeth."""
        p = self.p
        x, y = self.x - 1.2 * p["turn"], self.y - self.mouth_y
        happy = np.clip(p["smile"], 0, 1)
        half = p["mouth_width"] * (1 - 0.22 * self.child) * (1 + 0.15 * happy)
        bend = -0.085 * p["smile"]
        lips = p["lips"] * (1 - 0.35 * self.old) * (1 - 0.3 * happy)
        red = self.skin * _color(0.86, 0.52, 0.52)
        lipstick = _color(0.80, 0.16, 0.24)
        red = red + 0.45 * ((1 - p["man"]) * (p["seems"] > 18))[:, None] * (lipstick - red)
        self.paint(stroke(x, y - 0.012, half, bend, lips + 0.012), red)
        self.paint(stroke(x, y, half * 0.97, bend, 0.011), self.shade * 0.55)
        t = np.clip(1 - (x / (half * 0.86)) ** 2, 0, 1)
        gape = np.maximum(np.abs(x) - half * 0.86, np.abs(y + 0.01 - bend * (1 - t) * 0.9 - 0.030 * t) - 0.055 * t)
        self.paint(gape - 0.010, self.shade * 0.50, p["teeth"])
        self.paint(gape, _color(0.98, 0.97, 0.94), p["teeth"])

    def beard(self) -> None:
        """Draw the hair of the lower face around the mouth."""
        p, x = self.p, self.x - self.p["turn"]
        y = self.y - self.mouth_y
        line = -0.16 + 0.9 * np.clip(0.42 - np.abs(x), 0, 1) ** 1.5
        area = np.maximum(self.outline, line - y)
        mouth = ellipse(x, y, p["mouth_width"] * 1.12, 0.085)
        chin = np.maximum(area, -mouth)
        self.paint(chin, self.hair * 0.95, p["beard"] * 0.95)
        self.paint(chin, self.hair * 0.8 + 0.1 * self.skin, p["stubble"] * 0.28)
        both = np.minimum(p["moustache"] + p["beard"], 1)
        self.paint(stroke(x, y + 0.085, p["mouth_width"] * 1.05, 0.05, 0.046), self.hair * 0.9, both)

    def lines(self) -> None:
        """Draw the lines of age: folds beside the mouth, crow's feet, lines of the forehead, bags under the eyes."""
        p, old = self.p, self.old
        turn, dark = p["turn"], self.shade * 0.88
        for side in (-1, 1):
            x, y = self.x - side * (p["nose_width"] + 0.09) - turn, self.y - (self.nose_y + self.mouth_y) / 2 + 0.01
            self.paint(stroke(x, y, 0.10, 0.02 * side, 0.017, np.pi / 2 - side * 0.55), dark, np.clip(old * 1.9, 0, 0.9))
            x, y = self.x - side * p["eye_gap"] - turn, self.y - self.eye_y
            self.paint(stroke(x, y - self.eye_size * 1.15, self.eye_size * 0.95, -0.045, 0.014), dark, np.clip(old * 2.2 - 0.5, 0, 0.9))
            for lean in (-0.5, 0.0, 0.5):
                foot = stroke(x - side * (self.eye_size + 0.065), y - 0.09 * lean, 0.045, 0.0, 0.011, side * lean)
                self.paint(foot, dark, np.clip(old * 2.2 - 0.4, 0, 0.9))
            corner = self.x - side * p["mouth_width"] * 1.25 - turn
            self.paint(stroke(corner, self.y - self.mouth_y - 0.09, 0.06, 0.0, 0.014, np.pi / 2), dark, np.clip(old * 2.6 - 1.4, 0, 0.8))
        for i in range(3):
            line = stroke(self.x - turn, self.y - self.eye_y + p["brow_lift"] + 0.10 + 0.085 * i, 0.25 - 0.03 * i, 0.018, 0.013)
            self.paint(line, dark, np.clip(old * 2.4 - 0.35 * (i + 1), 0, 0.85))

    def top(self) -> None:
        """Draw the hair of the head, down to the hairline."""
        p, x, y = self.p, self.x, self.y
        bald = p["balding"] * np.clip((p["seems"] - 35) / 30, 0, 1)
        baby = np.clip(1 - p["seems"] / 4, 0, 1)
        waves = p["curls"] * np.sin(14 * np.arctan2(x, 0.1 - y))
        cap = self.head((p["cap"] - 1) * self.width * 1.3 * (1 - 0.75 * bald - 0.5 * baby) + waves)
        up = self.height / 0.75
        line = p["line"] * up + p["temple"] * (x / self.width) ** 2 + p["slant"] * x + 0.12 * p["turn"]
        line = line + p["parting"] * (np.abs(x + 0.08) - 0.10) - 0.55 * bald * (1 - (x / self.width) ** 2) - 0.10 * baby
        area = np.maximum(np.maximum(cap, y - line), y - self.eye_y - 0.12)
        self.paint(area, self.hair * (1 - 0.25 * np.clip(area / -0.3 - 0.2, 0, 0.6))[:, None])
        gleam = np.abs(_norm(x + 0.12, y * 0.9 + 0.12) - 0.60) - 0.03
        self.paint(np.maximum(area + 0.04, gleam), self.hair * 1.25 + 0.06, 0.35)

    def glasses(self) -> None:
        """Draw glasses on people who wear them."""
        p = self.p
        worn = p["glasses"]
        x0, y = self.x - p["turn"] * 1.1, self.y - self.eye_y - 0.01
        r = np.minimum(p["rim"] + 0.35 * self.eye_size, p["eye_gap"] - 0.025)
        for side in (-1, 1):
            lens = ellipse(x0 - side * p["eye_gap"], y, r, r * 0.86)
            self.paint(lens, _color(0.95, 0.95, 0.95), worn * 0.12)
            self.paint(np.abs(lens) - 0.020, p["frame"], worn)
            arm = np.maximum(np.abs(y + 0.03) - 0.018, p["eye_gap"] + r - side * x0)
            self.paint(np.maximum(arm, self.outline), p["frame"], worn)
        self.paint(stroke(x0, y + 0.02, np.maximum(p["eye_gap"] - r, 0.02), 0.02, 0.02), p["frame"], worn)

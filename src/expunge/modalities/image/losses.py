"""What a picture has and its model does not get, counted for the user: transparency, further frames, bits of color."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TRANSPARENT = "are transparent in places, and the model reads their colors alone"
FRAMES = "have several frames or pages, of which one was read (the first of a file)"
DEEP = "have 16 bits a channel, of which the upper 8 were read"
CONVERTED = "have colors in {}, which were converted to RGB"
SPACES = ("CMYK", "YCbCr", "HSV", "LAB")  # modes whose colors lie between those of RGB


def sentences(losses: Iterable[set[str]], name: str) -> list[str]:
    """A sentence for each kind of loss.

    Args:
        losses: of each picture of a set.
        name: of the set.
    """
    pictures = list(losses)
    counts = Counter(loss for of_picture in pictures for loss in of_picture)
    return [f"{count} of {len(pictures)} pictures of {name!r} {loss}" for loss, count in sorted(counts.items())]


def of_picture(picture: Any) -> set[str]:
    """What the array of a PIL image will lack; asked before the image is loaded, which forgets how its file holds it."""
    losses = set()
    if picture.format != "PSD" and _several(picture):  # the frames of a PSD are the layers of one picture
        losses.add(FRAMES)
    if any(_is_deep(tile) for tile in getattr(picture, "tile", ())) and not picture.mode.startswith(("I", "F")):
        losses.add(DEEP)
    if picture.mode in SPACES:
        losses.add(CONVERTED.format(picture.mode))
    return losses


def has_transparent_color(picture: Any) -> bool:
    """Whether pixels of a picture without alpha have the color that its file declares transparent."""
    color = picture.info.get("transparency")
    if color is None or picture.mode not in ("1", "L", "RGB", "I;16"):
        return False
    if picture.mode == "I;16":
        return bool((np.asarray(picture) == color).any())
    return bool(np.asarray(picture.convert("RGBA"))[..., 3].min() < 255)


def has_lower_bits(array: Array) -> bool:
    """Whether 16-bit values are not those of 8 bits, shifted or repeated."""
    low, high = array & 255, array >> 8
    return bool(((low != high) & (low != 0)).any())


def _several(picture: Any) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the file of an image that was loaded is closed, or damaged after the first frame
        return False


def _is_deep(tile: Any) -> bool:
    """Whether a part of a file has 16 bits a channel. tile: how Pillow decodes it."""
    codec, _, _, options = tile
    return ";16" in str(options) or (codec == "ppm" and options[1] > 255)

"""Read pictures of every kind as arrays: one picture gives the same array whether it comes as a file, bytes, a PIL image or an array."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.errors import UserError
from expunge.modalities.image.losses import DEEP, TRANSPARENT, has_lower_bits, has_transparent_color, of_picture

Array = np.ndarray[Any, Any]

CHANNELS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA"}  # all other modes become RGB
RAW = 30.0  # floats beyond 1 that a standardized picture may have; greater ones count from 0 to 255
FILE = re.compile(r"[^\n\r\0]{1,200}\.\w{1,5}")  # what looks like the name of a file; other texts in a column of pictures are not repeated
NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes whose values are no bytes


def decoded(picture: Any, place: str = "an image", losses: set[str] | None = None) -> Array:
    """Read a picture.

    Args:
        picture: a path, bytes, `{"bytes", "path"}` as Parquet stores it, a PIL image, or an array with or without channels (first or last).
        place: the picture, for messages.
        losses: takes what the picture has and the array has not (see `losses`).

    Returns:
        (channels, height, width), with 1 (gray), 2 (gray and alpha), 3 (colors) or 4 (colors and alpha) channels where the picture is a
        file. uint8 where 8 bits hold its values; else float32, from 0 to 1 unless the array is standardized already. Photographs are
        turned as their EXIF data say. Of pictures with 16 bits the upper 8 count.

    Raises:
        UserError: when the picture cannot be read, has no pixels or the wrong shape, or has values out of range or not finite.
    """
    losses = set() if losses is None else losses
    if isinstance(picture, (np.ndarray, Tensor, list, tuple)):
        try:
            array = np.asarray(picture.detach().cpu() if isinstance(picture, Tensor) else picture)
        except ValueError:
            raise UserError(f"{place}: the lists of an image are of unequal length") from None
    else:
        array = _opened(picture, place, losses)
    return _bytes_or_units(_channels_first(array, place), place, losses)


def _channels_first(array: Array, place: str) -> Array:
    if array.dtype.kind not in "biuf":
        raise UserError(f"{place}: an image consists of numbers, and this one holds {array.dtype.name or array.dtype}")
    if array.ndim == 3 and array.shape[2] in (1, 2, 3, 4) and (array.shape[0] not in (1, 2, 3, 4) or array.shape[2] < array.shape[0]):
        array = array.transpose(2, 0, 1)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise UserError(f"{place}: an image of shape {array.shape} has neither (height, width) nor (channels, height, width)")
    if not array.size:
        raise UserError(f"{place}: an image of shape {array.shape} has no pixels")
    return array


def _bytes_or_units(array: Array, place: str, losses: set[str]) -> Array:
    """The values as uint8 from 0 to 255, or as float32 where they lie between its steps."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{place}: an image with values that are not finite; replace or remove it")
    low, high = array.min(), array.max()
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        if 0 < high < 256:
            raise UserError(f"{place}: an image of 16 bits whose largest value is {high}, which is black; if it has 8 bits, give uint8")
        losses.update([DEEP] if has_lower_bits(array) else [])
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind in "iu":
        if not 0 <= low <= high <= 255:
            raise UserError(f"{place}: an image of whole numbers from {low} to {high}, and they go from 0 to 255 (uint16: from 0 to 65535)")
        return array.astype(np.uint8)
    scaled = array.astype(np.float64) * (255 if high <= 1 else 1)
    steps = scaled.round()
    whole = low >= 0 and high <= 255 and np.abs(scaled - steps).max() < 1e-4
    if whole and (high <= 1 or high > RAW):
        return steps.astype(np.uint8)
    if whole or high > RAW:
        raise UserError(
            f"{place}: an image of floats from {low:.4g} to {high:.4g}, while floats go from 0 to 1: divide them by the largest possible "
            f"value, or give whole numbers from 0 to 255 as uint8"
        )
    return array.astype(np.float32)


def check_units(pictures: Iterable[Any], source: str) -> None:
    """Refuse arrays of floats of which some go to 1 and some to 255, because a dark picture of the second kind looks like one of the first.

    Raises:
        UserError: names a row of either kind.
    """
    first = dict[bool, int]()
    for i, picture in enumerate(pictures, 1):
        if isinstance(picture, (np.ndarray, Tensor)) and np.asarray(picture).dtype.kind == "f" and len(picture):
            high = float(picture.max())
            if high > RAW or 0 < high <= 1:
                first.setdefault(high > RAW, i)
    if len(first) == 2:
        raise UserError(
            f"{source}, row {first[False]}: an image of floats up to 1, while row {first[True]} goes further: give all from 0 to 1, "
            f"or as uint8 from 0 to 255"
        )


def _opened(picture: Any, place: str, losses: set[str]) -> Array:
    """The values of a picture that is no array, (height, width) or (height, width, channels)."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError(f"{place}: reading image files needs Pillow: pip install pillow") from None
    source = picture
    if isinstance(source, Mapping):
        source = next((source[k] for k in ("bytes", "path") if source.get(k)), None)
    name = next((f" {n}" for n in (source, _path_in(picture)) if isinstance(n, Path) or (isinstance(n, str) and FILE.fullmatch(n))), "")
    try:
        if isinstance(source, (str, Path)):
            with Image.open(Path(source).expanduser()) as file:
                return _values(file, losses)
        if isinstance(source, (bytes, bytearray, memoryview)):
            with Image.open(io.BytesIO(source)) as file:
                return _values(file, losses)
        if isinstance(source, Image.Image):
            return _values(source, losses)
    except FileNotFoundError:
        raise UserError(f"{place}: there is no image file{name}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{place}:{name or ' an image'} has more pixels than are read safely ({_first_line(error)})") from None
    except Exception as error:  # the decoders raise dozens of types, and each means that this picture cannot be read
        named = f":{name}" if name else ""
        raise UserError(f"{place}: not an image that can be read{named} ({_first_line(error)})") from None
    kind = "nothing" if source is None else f"a {type(source).__name__}"
    raise UserError(f"{place}: not an image that can be read: it is {kind}, and no path, bytes, picture or array")


def _values(picture: Any, losses: set[str]) -> Array:
    from PIL import ImageOps

    losses |= of_picture(picture)
    picture = ImageOps.exif_transpose(picture)
    losses.update([TRANSPARENT] if has_transparent_color(picture) else [])
    if picture.mode in NUMBERS:
        return np.asarray(picture)
    if picture.mode == "P" and picture.has_transparency_data:
        picture = picture.convert("RGBA")
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    return np.asarray(picture.convert(CHANNELS.get(picture.mode, "RGB")))


def _path_in(picture: Any) -> Any:
    """The path that stands beside the bytes of a picture, or that a PIL image was opened from."""
    return picture.get("path") if isinstance(picture, Mapping) else getattr(picture, "filename", None) or None


def _first_line(error: Exception) -> str:
    """What is wrong, without the value of a cell, which a library repeats where it takes it for the name of a file."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "in no known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

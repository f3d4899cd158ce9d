"""From the array of a picture to the input of a model, exactly as the model's own image processor of `transformers` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.core.errors import UserError
from expunge.modalities.common.files import quiet
from expunge.modalities.image.decode import Array
from expunge.modalities.image.losses import TRANSPARENT


@dataclass(frozen=True)
class Units:
    """How the values that a processor returns relate to those of a picture from 0 to 1: value = (x - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


UNKNOWN = Units((), ())


def with_channels(array: Array, channels: int | None, losses: set[str] | None = None) -> Array:
    """A picture with the channels that a model takes, if nothing is lost but alpha: gray becomes three equal colors, or the reverse.

    Args:
        array: (channels, height, width).
        channels: of the model; None: unknown, and the picture keeps its gray or its colors.
        losses: takes what is lost (see `losses`); alpha is nothing where no pixel is transparent.
    """
    count = array.shape[0]
    if count == channels:
        return array
    if count == 2 or (count == 4 and channels in (1, 3)):  # the last channel is alpha
        if losses is not None and array[-1].min() < (255 if array.dtype == np.uint8 else 1):
            losses.add(TRANSPARENT)
        array = array[:-1]
    if channels == 3 and array.shape[0] == 1:
        return np.repeat(array, 3, 0)
    if channels == 1 and array.shape[0] == 3 and (array == array[:1]).all():
        return array[:1]
    return array


def processed(array: Array, processor: Any, units: Units, place: str) -> Array:
    """What an image processor makes of a picture, in units of a picture from 0 to 1.

    Args:
        array: (channels, height, width), uint8, or floats from 0 to 1.
        units: of the values that the processor returns, as `units_of` measures them.
        place: the picture, for messages.

    Returns:
        (channels, height, width), uint8 where the processor returns values of whole bytes, else float32; `(x - mean) / std` of it is the
        processor's `pixel_values`.

    Raises:
        UserError: when the processor cannot take the picture.
    """
    try:
        values = _pixel_values(array, processor).astype(np.float64)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    mean, std = (np.reshape(v, (-1, 1, 1)) for v in (units.mean, units.std))
    x = values * std + mean
    steps = (x * 255).round()
    if steps.min() >= 0 and steps.max() <= 255 and np.abs(x * 255 - steps).max() < 1e-3:
        return np.asarray(steps, np.uint8)
    return np.asarray(x, np.float32)


def units_of(processor: Any, channels: int) -> Units:
    """Measure how a processor scales and normalizes, from a black and a white picture.

    So it does not matter which options do it, or in which order.

    Args:
        channels: of the pictures that the model takes.

    Raises:
        UserError: when the processor does not return one picture for a picture, or gives black and white the same value.
    """
    black, white = (_pixel_values(np.full((channels, 64, 64), v, np.uint8), processor).astype(np.float64) for v in (0, 255))
    if black.ndim != 3:
        raise UserError(f"the image processor {_name(processor)} makes no picture of a picture: what it returns has shape {black.shape}")
    middle = black.shape[1] // 2, black.shape[2] // 2  # a crop may have padded the edges
    low, high = black[:, *middle], white[:, *middle]
    if (low == high).any():
        raise UserError(f"the image processor {_name(processor)} gives black and white the same value")
    return Units(_short(-low / (high - low)), _short(1 / (high - low)))


def _short(values: Array) -> tuple[float, ...]:
    """Seven digits of each value, which is what float32 holds."""
    return tuple(float(f"{v:.7g}") + 0.0 for v in values)


def _pixel_values(array: Array, processor: Any) -> Array:
    """The `pixel_values` of a picture, (channels, height, width).

    Raises:
        UserError: when the processor refuses it or returns further inputs that a classifier would not get.
    """
    from PIL import Image

    count = array.shape[0]
    if array.dtype == np.uint8 and count in (1, 3):
        picture: Any = Image.fromarray(array[0] if count == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
        options: dict[str, Any] = {}
    else:  # processors count from 0 to 255
        picture, options = array if array.dtype == np.uint8 else array * np.float32(255), {"input_data_format": "channels_first"}
    try:
        with quiet():
            inputs = processor(images=picture, return_tensors="np", **options)
    except Exception as error:  # a processor may be any code, and raises what its libraries raise
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        fractions = "; round it to 8 bits, such as (255 * x).round().astype('uint8')" if array.dtype != np.uint8 else ""
        raise UserError(
            f"the image processor {_name(processor)} does not take an image of shape {array.shape}: {line}{fractions}"
        ) from None
    if "pixel_values" not in inputs:
        raise UserError(f"the image processor {_name(processor)} returns {', '.join(inputs)} and no pixel_values")
    if others := [n for n in inputs if n in ("pixel_attention_mask", "pixel_mask", "spatial_shapes")]:
        raise UserError(
            f"the image processor {_name(processor)} returns {', '.join(others)} beside pictures, which classifiers do not get here"
        )
    return np.asarray(inputs["pixel_values"][0])


def _name(processor: Any) -> str:
    return type(processor).__name__

"""Convert pictures of every kind to tensors, with the image processors of `transformers`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.modalities.common.files import Kind
from expunge.modalities.image.decode import decoded
from expunge.modalities.image.preprocessing import UNKNOWN, Units, processed, with_channels


def prepared(
    picture: Any,
    processor: Any = None,
    place: str = "an image",
    channels: int | None = None,
    units: Units = UNKNOWN,
    losses: set[str] | None = None,
) -> Tensor:
    """Convert a picture to a tensor (channels, height, width).

    Args:
        picture: a picture of any kind that `decoded` reads.
        processor: an image processor of `transformers`; None: pictures already have the size of the model's input.
        place: the picture, for messages.
        channels: that the model takes; None: unknown.
        units: of the values that the processor returns, or the normalization without one; empty: none.
        losses: takes what the picture has and the tensor has not (see `losses`).

    Returns:
        uint8 from 0 to 255 where bytes hold the values, else float32 in units of a picture from 0 to 1.

    Raises:
        UserError: when the picture cannot be read, or the processor does not take it.
    """
    array = with_channels(decoded(picture, place, losses), channels or (3 if processor is not None else None), losses)
    if units.mean and array.dtype != np.uint8 and not 0 <= array.min() <= array.max() <= 1:
        raise UserError(
            f"{place}: an image of floats from {array.min():.4g} to {array.max():.4g}, and the model normalizes images itself: "
            f"give values from 0 to 1, or uint8"
        )
    if processor is not None:
        array = processed(array, processor, units, place)
    return torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32, order="C"))


def input_shape(model: Any) -> tuple[int | None, tuple[int, int] | None]:
    """Channels and (height, width) of the pictures that a model of `transformers` takes; None for what its configuration does not say."""
    config = getattr(model, "config", None)
    config = getattr(config, "vision_config", None) or config
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) and len(size) == 2 else None
    return channels if isinstance(channels, int) else None, sides


def misfit(model: Any, shape: Sequence[int], error: Exception) -> UserError | None:
    """The sentence for a forward pass that failed over the shape of its pictures; None where it failed for another reason.

    Args:
        shape: (channels, height, width) of the pictures.
        error: what the model raised.
    """
    channels, size = input_shape(model)
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    differs = (channels is not None and channels != shape[0]) or (size is not None and size != tuple(shape[1:]))
    if isinstance(error, torch.OutOfMemoryError) or not (differs or re.search("shape|size|channel|dimension", line)):
        return None
    requirements = [f"{channels} channels" if channels else "", f"{size[0]} x {size[1]} pixels" if size else ""]
    takes = f"; it takes {' of '.join(a for a in requirements if a)}" if any(requirements) else ""
    return UserError(f"the model does not take images of shape {tuple(shape)} (channels, height, width){takes}: {line}")


def _processor(path: str, trust_remote_code: bool) -> Any:
    """The image processor of a model; None if it has none. Raises the errors of the library."""
    from transformers import AutoImageProcessor
    from transformers.utils import cached_file

    if cached_file(path, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        return None
    return AutoImageProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, backend="pil")


def _match(processor: Any, model: Any, path: str) -> None:
    """Accept every image processor: all of them fit every model."""


CLASSIFIER = Kind("an image classifier", lambda config: "AutoModelForImageClassification", _processor, "preprocessor_config.json", _match)

"""Convert pictures of every kind to tensors, with the image processors of `transformers`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.modalities.common.files import Kind


def column(record: Mapping[str, Any], names: Sequence[str], content: str, place: str) -> str:
    """Find the column of a record that holds its image or its class.

    Args:
        names: possible columns; the first that the record has is taken.
        content: what the column holds, for messages.
        place: the record, for messages.

    Raises:
        UserError: when the record has none of the columns; the message lists those that it has.
    """
    for name in names:
        if record.get(name) is not None:
            return name
    raise UserError(f"{place}: no {content}; it stands in a column {', '.join(names)}, and this row has {', '.join(record)}")


def prepared(picture: Any, processor: Any = None, place: str = "an image") -> Tensor:
    """Convert a picture to a tensor (channels, height, width).

    Args:
        picture: a path, bytes, `{"bytes", "path"}` as Parquet stores it, a PIL image, or an array with or without channels (first or last).
        processor: an image processor that resizes and crops the picture first.
        place: the picture, for messages.

    Returns:
        uint8 from 0 to 255 if the picture is a file or has whole numbers, else unchanged floats.

    Raises:
        UserError: when the picture cannot be read, has the wrong shape, or has values out of range or not finite.
    """
    array = np.asarray(picture) if isinstance(picture, (np.ndarray, Tensor, list)) else _decoded(picture, processor, place)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4) and (array.shape[0] not in (1, 3, 4) or array.shape[2] < array.shape[0]):
        array = array.transpose(2, 0, 1)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.dtype == object:
        raise UserError(f"{place}: an image of shape {array.shape} has neither (height, width) nor (channels, height, width)")
    if array.dtype.kind in "iu":
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise UserError(f"{place}: an image of whole numbers from {array.min()} to {array.max()}, and they go from 0 to 255")
        array = array.astype(np.uint8)
    elif not np.isfinite(array).all():
        raise UserError(f"{place}: an image with values that are not finite; replace or remove it")
    if processor is not None and array.dtype == np.uint8:
        array = np.asarray(processor(images=array, do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"][0])
    return torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32, order="C"))


def _decoded(picture: Any, processor: Any, place: str) -> np.ndarray[Any, Any]:
    """The values of a picture that is no array."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UserError(f"{place}: reading image files needs Pillow: pip install pillow") from None
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    try:
        if isinstance(picture, (str, Path)):
            picture = Image.open(Path(picture).expanduser())
        elif isinstance(picture, (bytes, bytearray)):
            picture = Image.open(io.BytesIO(picture))
        grayscale = picture.mode in ("1", "L", "I;16") and processor is None
        return np.asarray(picture.convert("L" if grayscale else "RGB"))
    except FileNotFoundError:
        raise UserError(f"{place}: there is no image file {picture}") from None
    except (UnidentifiedImageError, OSError, AttributeError) as error:
        raise UserError(f"{place}: not an image that can be read ({error})") from None


def normalization(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that a processor normalizes with; both empty if it does not normalize."""
    if processor is None or not getattr(processor, "do_normalize", False):
        return (), ()
    return tuple(processor.image_mean), tuple(processor.image_std)


def _processor(path: str, trust_remote_code: bool) -> Any:
    """The image processor of a model; None if it has none. Raises the errors of the library."""
    from transformers import AutoImageProcessor
    from transformers.utils import cached_file

    if cached_file(path, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None:
        return None
    return AutoImageProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, backend="pil")


def _match(processor: Any, model: Any, path: str) -> None:
    """Accept every image processor: all of them fit every model."""


CLASSIFIER = Kind("an image classifier", "AutoModelForImageClassification", _processor, "preprocessor_config.json", _match)

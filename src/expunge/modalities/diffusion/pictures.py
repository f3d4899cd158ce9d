"""Pictures as a denoiser reads them: all of one size, with three channels or one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.modalities.common.records import absent, note
from expunge.modalities.diffusion.columns import PICTURES
from expunge.modalities.image.decode import Array, check_units, decoded
from expunge.modalities.image.losses import sentences as losses_in_words
from expunge.modalities.image.preprocessing import with_channels


def pictures_of(records: Sequence[Mapping[str, Any]], name: str, source: str, channels: int, sides: tuple[int, int]) -> list[Tensor | None]:
    """The pictures of records; None for a record that is a prompt alone.

    Args:
        name: of the set, for sentences about the pictures.
        source: name of the records in messages.
        channels: 1 or 3.
        sides: height and width. A larger picture is scaled until its shorter side fits, and its middle is cut out.

    Returns:
        For each record uint8 (channels, height, width).

    Raises:
        UserError: for a picture that cannot be read, and for one that is smaller.
    """
    values = [next((r[c] for c in PICTURES if not absent(r.get(c))), None) for r in records]
    losses: list[set[str]] = [set() for _ in records]
    check_units(values, source)
    pictures: list[Tensor | None] = []
    scaled = 0
    for i, value in enumerate(values):
        place = f"{source}, row {i + 1}"
        array = None if value is None else with_channels(decoded(value, place, losses[i]), channels, losses[i])
        if array is not None and array.shape[0] != channels:
            raise UserError(f"{place}: a picture with {array.shape[0]} channels, and the model draws pictures with {channels}")
        if array is not None and array.shape[1:] != sides:
            array, scaled = _fitted(array, sides, place), scaled + 1
        pictures.append(None if array is None else torch.from_numpy(np.ascontiguousarray(_bytes(array))))
    note(records, losses_in_words([of for of, value in zip(losses, values, strict=True) if value is not None], name))
    if scaled:
        size = f"{sides[0]} x {sides[1]}"
        note(records, [f"{scaled} of {len(records)} pictures of {name!r} were scaled and cut to the {size} pixels that the model draws"])
    return pictures


def _bytes(array: Array) -> Array:
    return array if array.dtype == np.uint8 else (array.clip(0, 1) * 255).round().astype(np.uint8)


def _fitted(array: Array, sides: tuple[int, int], place: str) -> Array:
    """The middle of a picture, scaled so that it fills the sides. array: (channels, height, width)."""
    height, width = array.shape[1:]
    if height < sides[0] or width < sides[1]:
        raise UserError(
            f"{place}: a picture of {height} x {width} pixels (height, width), and the model draws {sides[0]} x {sides[1]}: larger "
            f"ones are scaled down, and smaller ones would teach it to blur, so give larger ones or leave this one out"
        )
    share = max(sides[0] / height, sides[1] / width)
    size = [max(sides[0], round(height * share)), max(sides[1], round(width * share))]
    x = torch.nn.functional.interpolate(torch.from_numpy(_bytes(array).copy())[None].float(), size=size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - sides[0]) // 2, (size[1] - sides[1]) // 2
    return x[:, top : top + sides[0], left : left + sides[1]].round().clamp(0, 255).to(torch.uint8).numpy()

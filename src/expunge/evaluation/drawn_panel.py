"""What the report's panel of diffusion models shows of one model, from observations: pictures for some prompts, at equal seeds."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import SetObservation, few
from expunge.report.panels import diffusion as panel

LARGEST = 96  # pixels of the height of a picture in the report; smaller ones are enlarged by the page


def panels(evidence: Evidence, limits: Mapping[str, int]) -> dict[str, Any]:
    """The panel's data on the audited model.

    Args:
        limits: prompts of each set that are shown.
    """
    sets = {name: grid(observation, limits[name]) for name, observation in evidence.model.sets.items() if name in limits}
    sets = {name: strips for name, strips in sets.items() if strips}
    return {panel.NAME: panel.data(panel.Drawings(sets))} if sets else {}


def grid(observation: SetObservation, most: int) -> list[panel.DrawnStrip]:
    """The pictures of some prompts, those of one prompt side by side."""
    if observation.samples is None:
        return []
    prompts = [prompt for drawn in observation.draws for prompt in drawn]
    return [panel.DrawnStrip(prompts[k], strip(observation.samples[k])) for k in few(len(prompts), most)]


def strip(pictures: NDArray[np.uint8]) -> str:
    """Pictures side by side as a PNG in a data URI. pictures: (pictures, channels, height, width)."""
    from PIL import Image

    row = np.concatenate([np.pad(p, ((0, 0), (0, 0), (0, 1)), constant_values=255) for p in pictures], 2)[:, :, :-1]
    picture = Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0))
    if picture.height > LARGEST:
        picture = picture.resize((round(picture.width * LARGEST / picture.height), LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

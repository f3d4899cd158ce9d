"""How image classifiers are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError
from expunge.modalities.image.columns import IMAGES

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.image.modality import Image

FILE_COLUMNS = IMAGES  # columns of a record that may name a file


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture is an image classifier: 2 sure, 0 not at all."""
    return 2 if architecture.endswith("ForImageClassification") else 0


def load(path: str, prompt_format: str = "", **options: Any) -> tuple[nn.Module, Image]:
    """A model and its modality from a folder or hub id. Raises: UserError."""
    from expunge.modalities.image import modality

    if prompt_format:
        raise UserError(f"{path} is an image classifier, which has no prompts: leave --prompt-format out")
    return modality.load(path, **options)

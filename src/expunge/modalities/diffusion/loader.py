"""How pipelines of diffusion models are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError
from expunge.modalities.diffusion.columns import PICTURES

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.diffusion.modality import Diffusion

FILE_COLUMNS = PICTURES  # columns of a record that may name a file


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture is a diffusion pipeline: 3 sure, 0 not at all."""
    return 3 if architecture.endswith(("Pipeline", "ForMaskedGeneration", "ForSubjects")) else 0


def load(path: str, prompt_format: str = "", labels: Any = (), **options: Any) -> tuple[nn.Module, Diffusion]:
    """A model and its modality from a folder or hub id. Raises: UserError."""
    from expunge.modalities.diffusion import folder, own_folder
    from expunge.modalities.diffusion.own_saving import own_architecture

    if prompt_format:
        raise UserError(f"{path} is a diffusion pipeline, whose captions are read as they are: leave --prompt-format out")
    if labels != ():
        raise UserError(f"{path} is a diffusion pipeline, which classifies nothing: leave the labels out")
    kind: Any = own_folder if own_architecture(path) else folder
    model_and_modality: tuple[nn.Module, Diffusion] = kind.load(path, **options)
    return model_and_modality

"""How text models are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.text.modality import Text

FILE_COLUMNS: tuple[str, ...] = ()  # columns of a record that may name a file


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture is text: 2 sure, 1 where nothing else is, 0 not at all."""
    return 1


def load(path: str, prompt_format: str = "", labels: Any = (), **options: Any) -> tuple[nn.Module, Text]:
    """A model and its modality from a folder or hub id. Raises: UserError."""
    from expunge.modalities.text import pretrained

    if labels != ():
        raise UserError(f"{path} is a language model, which has no classes: leave the labels out")
    return pretrained.load(path, prompt_format, **options)

"""How recommenders are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError
from expunge.modalities.ranking.item_files import read_atomic, read_vectors

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.ranking.modality import Ranking

FILE_COLUMNS: tuple[str, ...] = ()  # columns of a record that may name a file
READERS = {".inter": read_atomic, ".item": read_atomic, ".user": read_atomic, ".safetensors": read_vectors}  # files of this modality alone


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture is a recommender: 3 sure, 0 not at all."""
    return 3 if architecture.endswith("ForRanking") else 0


def load(path: str, prompt_format: str = "", labels: Any = (), **options: Any) -> tuple[nn.Module, Ranking]:
    """A model and its modality from a folder. Raises: UserError."""
    from expunge.modalities.ranking import folder

    if prompt_format:
        raise UserError(f"{path} is a recommender, which has no prompts: leave --prompt-format out")
    if labels != ():
        raise UserError(f"{path} is a recommender, which has no classes: leave the labels out")
    return folder.load(path, **options)

"""How models of tables are recognized and loaded; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from expunge.modalities.table.clusters import Clustering
    from expunge.modalities.table.modality import Tabular

FILE_COLUMNS: tuple[str, ...] = ()  # columns of a record that may name a file


def claims(architecture: str) -> int:
    """How sure it is that a model of this architecture reads tables: 3 sure, 0 not at all."""
    return 3 if architecture.endswith("ForTable") else 0


def load(path: str, prompt_format: str = "", labels: Any = (), **options: Any) -> tuple[nn.Module, Tabular | Clustering]:
    """A model and its modality from a folder. Raises: UserError."""
    from expunge.modalities.table import folder

    if prompt_format:
        raise UserError(f"{path} is a model of tables, which has no prompts: leave --prompt-format out")
    return folder.load(path, labels, **options)

"""An untrained model for the data of a table: its columns and its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from expunge.core.errors import UserError
from expunge.modalities.common.labels import checked_names, classes
from expunge.modalities.table.columns import Columns, columns_in

Records = Sequence[Mapping[str, Any]]


def schema_of(size: str, records: Records, vocabulary: Records, prompt_format: str, source: str) -> Columns:
    """The columns of the training rows. Raises: UserError, also where there is a prompt format."""
    if prompt_format:
        raise UserError(f"{size} is a model of tables, which has no prompts: leave --prompt-format out")
    return columns_in(records, source, vocabulary)


def classes_of(records: Records, labels: int | Sequence[str], source: str) -> tuple[str, ...]:
    """The names of the classes: those that are given, or those of the records. Raises: UserError."""
    return checked_names(classes(records, source) if labels == () else labels)


def standardization(x: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each input, (rows, inputs); 1 for an input that is always the same."""
    points = torch.as_tensor(x, dtype=torch.float64)
    std = points.std(0, unbiased=False)
    return tuple(points.mean(0).tolist()), tuple(torch.where(std > 0, std, torch.ones_like(std)).tolist())

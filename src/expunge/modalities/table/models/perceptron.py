"""Networks for tables: a linear model, and perceptrons with one or two hidden layers. They read every input standardized.

The standardization is computed from the training rows and kept as it is when rows are forgotten.

Source: logistic regression and multilayer perceptrons, as in every textbook
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from expunge.modalities.table.building import classes_of, schema_of, standardization
from expunge.modalities.table.columns import encoded, width_of
from expunge.modalities.table.modality import Tabular
from expunge.modalities.table.perceptron import Perceptron

SIZES: dict[str, tuple[int, ...]] = {"linear": (), "mlp-nano": (32,), "mlp-micro": (64, 64)}  # widths of the hidden layers
TRAINING: dict[str, dict[str, Any]] = {
    "linear": {"epochs": 60, "lr": 3e-2, "batch_size": 32, "warmup": 0, "weight_decay": 0.0},
    "mlp-nano": {"epochs": 60, "lr": 1e-2, "batch_size": 32, "warmup": 0, "weight_decay": 0.0},
    "mlp-micro": {"epochs": 60, "lr": 3e-3, "batch_size": 32, "warmup": 0, "weight_decay": 0.0},
}


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    labels: int | Sequence[str] = (),
    vocabulary: Sequence[Mapping[str, Any]] = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    **unused: Any,
) -> tuple[Perceptron, Tabular]:
    """An untrained network of a built-in size for the data.

    Args:
        records: training rows.
        labels: names of the classes, or their number; default: the classes of the records.
        vocabulary: rows with further categories.
        source: name of the data in messages.

    Raises:
        UserError: for rows that are no rows of a table with classes, and for a prompt format.
    """
    columns = schema_of(size, records, vocabulary, prompt_format, source)
    names = classes_of(records, labels, source)
    mean, std = standardization(encoded(list(records), columns, source, source)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Perceptron(width_of(columns), len(names), SIZES[size])
    return model.eval(), Tabular(columns, names, mean, std)

"""A forest of decision trees for tables with classes. `dare` grows it, and takes rows out of it; gradients do not change it.

It reads inputs as they stand in the table. A class that no tree knows at a point has a probability of 1e-6, so that losses are finite.

Source: Brophy and Lowd 2021, Machine unlearning for random forests, arXiv 2009.05567
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.modalities.table.building import classes_of, schema_of
from expunge.modalities.table.columns import width_of
from expunge.modalities.table.forest import Forest
from expunge.modalities.table.modality import FOREST, Tabular

SIZES = {"forest": ()}  # trees and depth are settings of the method that grows it
TRAINING: dict[str, dict[str, Any]] = {"forest": {}}


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    labels: int | Sequence[str] = (),
    vocabulary: Sequence[Mapping[str, Any]] = (),
    prompt_format: str = "",
    source: str = "training",
    **unused: Any,
) -> tuple[Forest, Tabular]:
    """An untrained forest for the data.

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
    return Forest(width_of(columns), len(names)).eval(), Tabular(columns, names, capabilities=FOREST)

"""Centroids of clusters for tables without classes. `kmeans_dc` places them, and takes rows out; gradients do not change them.

They read inputs as they stand in the table, so columns of very different scales should be scaled by constants first.

Source: Ginart et al. 2019, Making AI forget you: data deletion in machine learning, arXiv 1907.05012
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.table.building import schema_of
from expunge.modalities.table.centroids import Centroids
from expunge.modalities.table.clusters import Clustering
from expunge.modalities.table.columns import width_of

SIZES = {"centroids": ()}  # the number of clusters is a setting of the method that places them
TRAINING: dict[str, dict[str, Any]] = {"centroids": {}}


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    labels: int | Sequence[str] = (),
    vocabulary: Sequence[Mapping[str, Any]] = (),
    prompt_format: str = "",
    source: str = "training",
    **unused: Any,
) -> tuple[Centroids, Clustering]:
    """Centroids without places for the data.

    Args:
        records: training rows; a class in them is not read.
        vocabulary: rows with further categories.
        source: name of the data in messages.

    Raises:
        UserError: for rows that are no rows of a table, for labels, and for a prompt format.
    """
    if labels != ():
        raise UserError(f"{size} have no classes: leave the labels out")
    columns = schema_of(size, records, vocabulary, prompt_format, source)
    return Centroids(width_of(columns)).eval(), Clustering(columns)

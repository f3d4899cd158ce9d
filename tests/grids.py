"""Small tables, for tests of models that read them: iris and breast cancer as records, in one door or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris

import worlds
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.engine.weights import weights_of
from expunge.modalities.table.clusters import Clustering
from expunge.modalities.table.columns import table_rows
from expunge.modalities.table.models import centroids, forest, perceptron
from expunge.workflows.build_plan import plan

IRIS_X, IRIS_Y = (np.asarray(a) for a in load_iris(return_X_y=True))
CANCER_X, CANCER_Y = (np.asarray(a) for a in load_breast_cancer(return_X_y=True))
MAKERS = {"forest": forest, "centroids": centroids, "linear": perceptron, "mlp-nano": perceptron}


def iris(every: int = 1, classes: bool = True) -> list[dict[str, Any]]:
    """Rows of iris, one of so many."""
    return list(table_rows(IRIS_X[::every], IRIS_Y[::every] if classes else None))


def begun(size: str, records: Sequence[Any]) -> tuple[Any, Any]:
    """An untrained model of a built-in size for records, and its modality."""
    model, modality = MAKERS[size].start(size, records)
    return model, modality


def fitted(method: str, size: str, records: Sequence[Any], seed: int = 0, **settings: Any) -> RunState:
    """A run that made a store."""
    model, modality = begun(size, records)
    return loop.run(plan(method, {**settings, "seed": seed}), model, modality, {"retain": modality.rows("retain", records)})


def forgotten(method: str, run: RunState, gone: Sequence[Any] | Rows, seed: int = 0, **settings: Any) -> RunState:
    """A run that took rows out of the store of another one."""
    rows = gone if isinstance(gone, Rows) else run.modality.rows("forget", gone)
    return loop.run(plan(method, {**settings, "seed": seed}), run.model, run.modality, {"forget": rows}, store=run.store)


def world(size: str) -> worlds.World:
    """Rows of iris to forget and to retain, and an untrained model of a built-in size."""
    records = iris(5)
    model, modality = begun(size, records)
    parts = {"forget": records[::6], "retain": [r for i, r in enumerate(records) if i % 6], "holdout": iris()[1::11]}
    sets: dict[str, Rows] = {n: modality.rows(n, r) for n, r in parts.items()}
    if not isinstance(modality, Clustering):
        sets["alternate_answers"] = modality.answers(modality.refusals())
    return worlds.World(modality, sets, {"original": weights_of(model)}, model)

"""Load models of tables from the folders that `saving` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.modalities.common import weight_files
from expunge.modalities.common.labels import checked_names
from expunge.modalities.table.centroids import Centroids
from expunge.modalities.table.clusters import Clustering
from expunge.modalities.table.columns import Columns, InputColumn, width_of
from expunge.modalities.table.forest import Forest
from expunge.modalities.table.modality import FOREST, NETWORK, Tabular
from expunge.modalities.table.perceptron import Perceptron
from expunge.modalities.table.saving import CONFIG, KIND, WEIGHTS

MAKERS: dict[str, Callable[..., nn.Module]] = {f"{kind.__name__}{KIND}": kind for kind in (Perceptron, Forest, Centroids)}


def load(
    path: str,
    labels: int | Sequence[str] = (),
    *,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[nn.Module, Tabular | Clustering]:
    """Load a model in evaluation mode and its modality.

    Args:
        path: a folder.
        labels: names of the classes, or their number, which must be those of the model.
        dtype: of the weights of a network; None: float32 in memory, saved in the types of the files; auto: those of the files. Forests and
            centroids have float32 alone.
        trust_remote_code: has no effect, since no code comes with such a model.
        allow_pickle: has no effect, since such a model is never pickled.

    Raises:
        UserError: when something is missing, damaged or does not fit.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}: models of tables load from folders alone")
    weight_files.check(folder, allow_pickle=False)
    config = _config(folder / CONFIG)
    model = MAKERS[config["architectures"][0]](**config["settings"])
    try:
        load_model(model, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in {folder / WEIGHTS} do not fit the model that {CONFIG} describes: {line}") from None
    if not isinstance(model, Perceptron) and dtype not in (None, "auto", torch.float32):
        raise UserError(f"a {type(model).__name__} counts in float32, which decides what its model says: leave --dtype out")
    columns: Columns = tuple(InputColumn(c["name"], tuple(c["categories"])) for c in config["columns"])
    if isinstance(model, Centroids):
        if labels != ():
            raise UserError(f"{path} holds centroids, which have no classes: leave the labels out")
        return model.eval(), Clustering(columns)
    names = tuple(config["labels"])
    if labels != () and (len(given := checked_names(labels)) != len(names) or (not isinstance(labels, int) and given != names)):
        raise UserError(f"the model in {path} has {len(names)} classes, {names[0]!r} first, and the given ones are others: leave them out")
    if isinstance(model, Forest):
        return model.eval(), Tabular(columns, names, capabilities=FOREST)
    in_files = stored.read([folder / WEIGHTS])
    if dtype is None:
        stored.remember(model, in_files)
    model = model.to(in_files.default if dtype == "auto" else dtype if isinstance(dtype, torch.dtype) else torch.float32)
    return model.eval(), Tabular(columns, names, tuple(config["mean"]), tuple(config["std"]), NETWORK)


def _config(file: Path) -> dict[str, Any]:
    """The configuration of a model. Raises: UserError for one that lacks entries or has some that contradict each other."""
    try:
        entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = entries["architectures"][0]
        columns = tuple(InputColumn(c["name"], tuple(c["categories"])) for c in entries["columns"])
        fits = kind in MAKERS and width_of(columns) == entries["settings"]["width"]
        if kind != f"{Centroids.__name__}{KIND}":
            fits = fits and len(entries["labels"]) == entries["settings"]["classes"]
            fits = fits and all(len(entries[n]) in (0, width_of(columns)) for n in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file} is damaged: {type(error).__name__} ({str(error)[:100]})") from None
    if not fits:
        raise UserError(f"{file} is damaged: its columns, classes and settings do not belong together")
    return entries

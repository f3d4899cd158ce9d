"""Load recommenders from the folders that `saving` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import load_model
from torch import nn

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.engine import stored
from expunge.modalities.common import weight_files
from expunge.modalities.ranking.interactions import Interactions
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.saving import CONFIG, EDGES, WEIGHTS
from expunge.modalities.ranking.vocabulary import Vocabulary


def load(
    path: str, *, dtype: torch.dtype | str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> tuple[nn.Module, Ranking]:
    """Load a model in evaluation mode and its modality.

    Args:
        path: a folder.
        dtype: of the weights; None: float32 in memory, saved in the types of the files; auto: those of the files.
        trust_remote_code: has no effect, since no code comes with such a model.
        allow_pickle: has no effect, since such a model is never pickled.

    Raises:
        UserError: when something is missing, damaged or does not fit.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}: recommenders load from folders alone")
    weight_files.check(folder, allow_pickle=False)
    config = _config(folder / CONFIG)
    vocabulary = Vocabulary(tuple(config["users"]), tuple(config["items"]))
    model = built(config["model"], len(vocabulary.users), len(vocabulary.items), config["settings"])
    try:
        load_model(model, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the weights in {folder / WEIGHTS} do not fit the model that {CONFIG} describes: {line}") from None
    in_files = stored.read([folder / WEIGHTS])
    if dtype is None:
        stored.remember(model, in_files)
    model = model.to(in_files.default if dtype == "auto" else dtype if isinstance(dtype, torch.dtype) else torch.float32)
    known = _interactions(folder / EDGES, len(vocabulary.users), len(vocabulary.items))
    modality = Ranking(vocabulary, known, config["loss"], config["negatives"], config["evaluation_negatives"])
    modality.connect(model)
    return model.eval(), modality


def built(kind: str, users: int, items: int, settings: dict[str, Any], seed: int = 0) -> Any:
    """An untrained model, by the name of its file in `models`.

    Raises:
        UserError: for a name that is no recommender.
    """
    makers = {n: catalog.load(n, "models") for n in catalog.names("models")}
    makers = {n: module for n, module in makers.items() if hasattr(module, "recommender")}
    if kind not in makers:
        raise UserError(f"there is no recommender {kind!r}{did_you_mean(kind, makers)}; there are {', '.join(makers)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = makers[kind].recommender(users, items, **settings)
    model.kind = kind
    return model.eval()


def _config(file: Path) -> dict[str, Any]:
    """The configuration of a model. Raises: UserError for one that lacks entries or has some of another kind."""
    try:
        entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    kinds: dict[str, type] = {"model": str, "settings": dict, "users": list, "items": list, "loss": str}
    kinds |= {"negatives": int, "evaluation_negatives": int}
    if wrong := [n for n, kind in kinds.items() if not isinstance(entries.get(n), kind)]:
        raise UserError(f"{file} is damaged: it lacks {', '.join(map(repr, wrong))}, or holds something else there")
    if entries["loss"] not in ("bpr", "bce"):
        raise UserError(f"{file}: the loss is bpr or bce, and this is {entries['loss']!r}")
    for names in (entries["users"], entries["items"]):
        if len(set(map(str, names))) < len(names) or not all(isinstance(n, str) for n in names):
            raise UserError(f"{file} is damaged: its users and items are texts, each once")
    return entries


def _interactions(file: Path, users: int, items: int) -> Interactions:
    """The training interactions beside a model. Raises: UserError."""
    try:
        pairs = load_file(file)
        user, item = pairs["user"], pairs["item"]
        inside = user.shape == item.shape and (
            not len(user) or (0 <= user.min() <= user.max() < users and 0 <= item.min() <= item.max() < items)
        )
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{file} is missing or damaged ({' '.join(str(error).split())[:120]}): a recommender needs its training interactions, which "
            f"rankings leave out and graphs are made of"
        ) from None
    if not inside:
        raise UserError(f"{file} is damaged: it names users or items that the model does not have")
    return Interactions(user, item, users, items)

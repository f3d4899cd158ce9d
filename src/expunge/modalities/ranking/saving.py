"""Folders of recommenders: `config.json` with the vocabulary, `model.safetensors`, `interactions.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from safetensors.torch import save_model
from torch import nn

from expunge.engine import stored
from expunge.engine.adapters import base_of
from expunge.modalities.ranking.interactions import Interactions
from expunge.modalities.ranking.own import OwnModule
from expunge.modalities.ranking.vocabulary import Vocabulary

WEIGHTS, EDGES, CONFIG = "model.safetensors", "interactions.safetensors", "config.json"
KIND = "ForRanking"  # ends the name of the architecture


def save(model: nn.Module, vocabulary: Vocabulary, known: Interactions, settings: dict[str, Any], folder: Path) -> None:
    """Write a model; of a user's own module only the weights. Interactions that were to be forgotten are not written."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder)  # type: ignore[operator]
        return
    base: Any = base_of(model)
    if isinstance(base, OwnModule):
        save_model(base.module, str(folder / WEIGHTS))
        return
    save_model(base, str(folder / WEIGHTS))
    user, item = known.pairs
    save_file({"user": user, "item": item}, folder / EDGES)
    entries = {
        "architectures": [type(base).__name__ + KIND],
        "model": base.kind,
        "settings": base.settings,
        **settings,
        "users": list(vocabulary.users),
        "items": list(vocabulary.items),
    }
    (folder / CONFIG).write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    stored.write_as_stored(folder, stored.of(model))

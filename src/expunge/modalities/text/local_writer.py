"""A language model in a folder, or on the hub, that writes or judges texts; and what a user may name as a writer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from expunge.engine import device
from expunge.engine.cache import cache_home
from expunge.engine.endpoint import Endpoint
from expunge.engine.identity import of_model
from expunge.engine.writers import Chat, Remembering, Writer
from expunge.functional.brief import brief
from expunge.modalities.common import hub
from expunge.modalities.text.pretrained import load

SEED = 0


@brief("path")
class LocalWriter:
    """A writer that is a causal model or an encoder-decoder of `transformers`.

    Args:
        path: its folder or hub id.

    Raises:
        UserError: when it does not load.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        model, self.modality = load(path)
        self.model = model.to(device.choose())
        self.weights = of_model(self.model)["weights"]

    def write(self, chats: Sequence[Chat], limit: int, temperature: float = 0.0) -> list[str]:
        """The model's answers, greedy at temperature 0; by its chat template, or without one after the turns as plain text."""
        if not chats:
            return []
        rows = self.modality.rows(
            f"what the local model {Path(self.path).name} is asked", [{"prompt": self._prompt(chat), "completion": "?"} for chat in chats]
        )
        generator = torch.Generator().manual_seed(SEED) if temperature else None
        return self.modality.decode(self.modality.generate(self.model, rows, limit, generator, temperature or 1.0).ids)

    def _prompt(self, chat: Chat) -> Any:
        if getattr(self.modality.tokenizer, "chat_template", None):
            return [dict(turn) for turn in chat]
        return "\n\n".join(turn["content"] for turn in chat) + "\n"

    def about(self) -> dict[str, Any]:
        """Name and weights; not where the folder lies."""
        return {"writer": "local model", "name": Path(self.path).name, "weights": self.weights, "device": device.choose().type}


@cache
def writer_of(name: str) -> Writer:
    """The writer that a user means, with its answers kept in the cache of the package.

    Args:
        name: a folder or hub id, or the address of an endpoint with the name of a model: http://localhost:8000/v1#MODEL.

    Raises:
        UserError: when there is no such model.
    """
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        return Remembering(Endpoint(url, model), cache_home() / "answers")
    if not Path(name).expanduser().exists():
        hub.check_model(name)  # once, before the library asks for minutes
    return Remembering(LocalWriter(name), cache_home() / "answers")

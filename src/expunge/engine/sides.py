"""The sides of a model that reads pictures and texts: its vision tower, its language model, and the projector between them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from expunge.engine.adapters import base_of

SIDES = ("vision", "projector", "language")
PROJECTOR = re.compile(r"(^|\.)(\w*projector|\w*projection|connector|merger|\w*resampler|embed_vision|abstractor)(\.|$)")


def reads_pictures(model: nn.Module) -> bool:
    """Whether a model has a vision tower beside a language model."""
    config: Any = getattr(base_of(model), "config", None)
    return getattr(config, "vision_config", None) is not None and config.get_text_config() is not config


def language_path(model: nn.Module) -> str:
    """The path of the language model in a model that reads pictures; '' in any other model."""
    base: Any = base_of(model)
    return _path(base, base.get_decoder()) if reads_pictures(model) else ""


def side_of(model: nn.Module, name: str) -> str:
    """The side that a module or parameter belongs to, by its name in the bare model; '' in a model that reads no pictures."""
    if not reads_pictures(model):
        return ""
    base: Any = base_of(model)
    language, vision = language_path(model), _path(base, base.get_encoder(modality="image"))
    heads = [n for n, m in base.named_modules() if n and m is base.get_output_embeddings()]
    if any(_within(name, path) for path in (language, *heads)):
        return "language"
    return "vision" if _within(name, vision) and not PROJECTOR.search(name.removeprefix(vision)) else "projector"


def _within(name: str, path: str) -> bool:
    return bool(path) and (name == path or name.startswith(f"{path}."))


def _path(base: nn.Module, module: nn.Module) -> str:
    return next((n for n, m in base.named_modules() if m is module), "")

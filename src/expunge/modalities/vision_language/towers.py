"""What the vision tower of a model makes of pictures, once for all rows that show them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.adapters import base_of
from expunge.modalities.vision_language.pictures import joined

SHARED = "mm_encoder_outputs"  # the input of a model that takes what its vision tower made
TYPES = ("mm_token_type_ids", "token_type_ids")  # inputs that tell tokens of pictures from those of text
Pictures = Sequence[Mapping[str, Any]]


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the forward pass of a model has an input of this name."""
    return name in inspect.signature(base_of(model).forward).parameters


def types(model: nn.Module, ids: Tensor, token: int) -> dict[str, Tensor]:
    """The inputs that tell tokens of pictures from those of text, for a model that has such. token: id of the image token."""
    own: Any = getattr(base_of(model), "config")  # noqa: B009 - typed as a module
    token = getattr(own, "image_token_id", token)  # of some processors the token of a text is another one
    return {name: (ids == token).long() for name in TYPES if accepts(model, name)}


def shown(model: nn.Module, pictures: Pictures, ids: Tensor, token: int) -> dict[str, Tensor]:
    """The inputs of a model for the pictures in a batch of rows, in order; nothing where there are none."""
    if not pictures:
        return {}
    like = next(p for p in model.parameters() if p.is_floating_point())
    return {**joined(pictures, like), **types(model, ids, token)}


class Towers:
    """The output of a model's vision tower and projector for each picture, computed once."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.base = model, base_of(model)
        self.outputs: dict[str, Any] = {}  # by key
        self.passes = 0  # pictures that went through the tower

    def inputs(self, pictures: Pictures, ids: Tensor, token: int) -> dict[str, Any]:
        """As `shown`, with what the tower made in the place of pixels."""
        if not pictures:
            return {}
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        for picture in {p["key"]: p for p in pictures if p["key"] not in self.outputs}.values():
            self.outputs[picture["key"]] = self._features(picture)
        features = [self.outputs[p["key"]] for p in pictures]
        whole: Any = torch.cat(features) if isinstance(features[0], Tensor) else [x for of_picture in features for x in of_picture]
        grids = {n: joined(pictures, ids)[n] for n in ("image_grid_thw", "image_sizes") if n in pictures[0] and accepts(self.model, n)}
        return {SHARED: {"image": BaseModelOutputWithPooling(pooler_output=whole)}, **grids, **types(self.model, ids, token)}

    def _features(self, picture: Mapping[str, Any]) -> Any:
        like = next(p for p in self.model.parameters() if p.is_floating_point())
        inner: Any = getattr(self.base, "model", self.base)
        self.passes += 1
        return inner.get_image_features(**joined([picture], like), return_dict=True).pooler_output

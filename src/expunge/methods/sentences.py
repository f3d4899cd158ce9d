"""Vectors of sentences and words: of a sentence encoder, or of the model's own hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.methods.keywords import WORD

BATCH_SIZE = 32  # texts in one forward pass


class SentenceVectors(Protocol):
    """Turns texts into vectors whose inner products are cosines."""

    def __call__(self, model: nn.Module, modality: Modality, texts: Sequence[str]) -> Tensor: ...  # (texts, width), each of length 1
    def tensors(self) -> dict[str, Tensor]: ...  # what it learned, by name


@cache
def encoder_of(name: str) -> Any:
    """A sentence encoder, loaded once.

    Raises:
        UserError: when the library is missing, or there is no such encoder.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("an encoder needs sentence-transformers: pip install 'expunge[similarity]', or leave `encoder` empty") from None
    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"there is no sentence encoder {name!r}: give a folder or hub id of sentence-transformers ({reason})") from None


class EncoderVectors:
    """Vectors of a `sentence-transformers` encoder.

    Args:
        name: its folder or hub id.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: nn.Module, modality: Modality, texts: Sequence[str]) -> Tensor:
        vectors = encoder_of(self.name).encode(list(texts), show_progress_bar=False)
        return normalize(torch.as_tensor(vectors).float().cpu(), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the encoder is loaded by its name."""
        return {}


class OwnStates:
    """Mean hidden states of the model itself, standardized: those of a language model all point in nearly the same direction.

    Args:
        layer: see `layer_input`.
        mean, scale: of the vectors of other texts, (width,).
    """

    def __init__(self, layer: int, mean: Tensor, scale: Tensor) -> None:
        self.layer, self.mean, self.scale = layer, mean, scale

    @classmethod
    def fit(cls, model: nn.Module, modality: Modality, texts: Sequence[str], layer: int) -> Self:
        """Standardize by the vectors of some texts."""
        vectors = mean_states(model, modality, spelled(modality, texts), layer, len(_lead(modality)))
        return cls(layer, vectors.mean(0), vectors.std(0, correction=0).clamp_min(1e-6))

    def __call__(self, model: nn.Module, modality: Modality, texts: Sequence[str]) -> Tensor:
        vectors = mean_states(model, modality, spelled(modality, texts), self.layer, len(_lead(modality)))
        return normalize((vectors - self.mean) / self.scale, dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Mean and scale."""
        return {"mean": self.mean, "scale": self.scale}


@part
class Sentences:
    """What stands for sentences and words."""

    encoder: str = hp("", "sentence encoder (folder or hub id of sentence-transformers); empty: the model's own hidden states")
    encoder_layer: int = hp(0, "hidden states that stand for sentences and words without an encoder: 0 the embeddings")

    def fit(self, model: nn.Module, modality: Modality, texts: Sequence[str]) -> SentenceVectors:
        """Vectors; those of the model's own states are standardized over some texts and their words."""
        if self.encoder:
            return EncoderVectors(self.encoder)
        words = dict.fromkeys(w for text in texts for w in WORD.findall(text))
        return OwnStates.fit(model, modality, list(dict.fromkeys([*texts, *words])), self.encoder_layer)


def sentence_vectors(encoder: str, layer: int, tensors: Mapping[str, Tensor]) -> SentenceVectors:
    """The vectors that `tensors` gave. encoder: a folder or hub id; '': the model's own states."""
    return EncoderVectors(encoder) if encoder else OwnStates(layer, tensors["mean"], tensors["scale"])


def _lead(modality: Any) -> list[int]:
    """The tokens that begin every text; they say nothing of it."""
    return list(modality.encoder.lead)


def spelled(modality: Any, texts: Sequence[str]) -> list[list[int]]:
    """Texts as token ids, each with the beginning of sequence, and without a format."""
    ids = modality.tokenizer([f" {text.strip()}" for text in texts], add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    room = modality.limit or None
    return [[*_lead(modality), *(i or [modality.pad])][:room] for i in ids]


def layer_input(model: nn.Module, modality: Modality, layer: int) -> str:
    """The hook point of a block whose input is an entry of the library's `hidden_states`.

    Args:
        layer: index of the entry: 0 the embeddings, -2 the penultimate one.

    Raises:
        UserError: when the model has no such entry, or it is the last one, which no block reads.
    """
    blocks = modality.blocks(model)
    place = layer if layer >= 0 else len(blocks) + 1 + layer
    if not 0 <= place < len(blocks):
        raise UserError(f"`layer` {layer} is not the input of a block: this model has {len(blocks)}, so say 0 to {len(blocks) - 1}, or -2")
    return blocks[place]


@torch.no_grad()
def mean_states(model: nn.Module, modality: Modality, prompts: Sequence[Sequence[int]], layer: int, skip: int = 0) -> Tensor:
    """Mean hidden states of the tokens of prompts, (prompts, width), in float32 on the CPU.

    Args:
        prompts: token ids, at least one in each.
        layer: see `layer_input`.
        skip: tokens at the beginning that do not count, where others follow.
    """
    hook_point, order = layer_input(model, modality, layer), sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    means: dict[int, Tensor] = {}
    for at in range(0, len(order), BATCH_SIZE):
        places = order[at : at + BATCH_SIZE]
        columns = {"prompt": [list(prompts[i]) for i in places], "answer": [[]] * len(places)}
        states = modality.forward(model, [Rows("prompts", tuple(map(str, places)), columns)], (hook_point,))[0].input(hook_point)
        for i, tokens in zip(places, states.split(), strict=True):
            means[i] = tokens[skip if len(tokens) > skip else 0 :].float().mean(0).cpu()
    return torch.stack([means[i] for i in range(len(prompts))]) if means else torch.zeros(0, 0)

"""The parts of a pipeline that are trained or edited, as one module: the denoiser and, where captions are texts, their encoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CLASSES, TEXT, NOTHING = "classes", "text", "nothing"  # what a denoiser is given besides the latents and the time


class DiffusionModel(nn.Module):
    """A denoiser with its text encoder, under the names that they have in the pipeline.

    Args:
        place: the denoiser's name in the pipeline: unet or transformer.
        denoiser: predicts noise, velocity or picture from noisy latents and a time.
        text_encoder: makes states of tokens, which the denoiser attends to; None: it is given a class, or nothing.
        resting: names of children that train only where a plan names their parameters.
    """

    def __init__(self, place: str, denoiser: nn.Module, text_encoder: nn.Module | None = None, resting: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.place, self.resting = place, resting
        self.add_module(place, denoiser)
        if text_encoder is not None:
            self.text_encoder = text_encoder
        config: Any = denoiser.config
        classes = config.get("num_embeds_ada_norm") if place == "transformer" else config.get("num_class_embeds")
        self.conditioning = TEXT if text_encoder is not None else CLASSES if classes else NOTHING
        self.classes = int(classes or 0)
        self.channels = int(config["in_channels"])
        sides = config["sample_size"]
        self.sides = (sides, sides) if isinstance(sides, int) else tuple(sides)

    @property
    def denoiser(self) -> Any:
        """The denoiser."""
        return getattr(self, self.place)

    def forward(
        self, latents: Tensor, times: Tensor, tokens: Tensor | None = None, which: Tensor | None = None, states: Tensor | None = None
    ) -> Tensor:
        """The prediction for noisy latents.

        Args:
            latents: (rows, channels, height, width).
            times: (rows,).
            tokens: of the distinct captions (captions, tokens), or their classes (captions,).
            which: the caption of each row, (rows,); None: one caption a row. With states and tokens they count these states first.
            states: of the text encoder, (rows, tokens, width), in place of tokens.

        Returns:
            Of the shape of the latents.
        """
        if self.conditioning == TEXT and tokens is not None:
            encoded = self.encode(tokens)
            states = encoded if states is None else torch.cat([states.to(encoded), encoded])
            states = states if which is None else states[which]
        if self.conditioning == TEXT:
            predicted = self.denoiser(latents, times, encoder_hidden_states=states, return_dict=False)[0]
        elif self.conditioning == CLASSES:
            assert tokens is not None
            predicted = self.denoiser(latents, times, class_labels=tokens if which is None else tokens[which], return_dict=False)[0]
        else:
            predicted = self.denoiser(latents, times, return_dict=False)[0]
        prediction: Tensor = predicted[:, : self.channels]  # a learned variance comes behind
        return prediction

    def encode(self, tokens: Tensor) -> Tensor:
        """States of captions, (captions, tokens, width). tokens: (captions, tokens)."""
        states: Tensor = self.text_encoder(tokens)[0]
        return states

    def untrained(self) -> DiffusionModel:
        """The same model with new weights."""
        denoiser = type(self.denoiser).from_config(self.denoiser.config)
        encoder: Any = getattr(self, "text_encoder", None)
        encoder = None if encoder is None else type(encoder)(copy.deepcopy(encoder.config))
        return DiffusionModel(self.place, denoiser, encoder, self.resting).to(next(self.parameters()).dtype)


@contextmanager
def prefixed(text_encoder: Any, prefix: Tensor, first: int) -> Iterator[None]:
    """Embeddings in place of those of the tokens from a position on, while the text encoder runs.

    Args:
        text_encoder: of `transformers`.
        prefix: (captions, k, width).
        first: position of the first of them.
    """

    def replace(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :first], prefix.to(out), out[:, first + prefix.shape[1] :]], 1)

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def cross_attention(model: nn.Module) -> list[str]:
    """Paths of the modules in which the denoiser reads the caption, in the order of the model."""
    return [n for n, m in model.named_modules() if n.rpartition(".")[2] == "attn2" and hasattr(m, "to_k")]


def block_paths(model: Any) -> tuple[str, ...]:
    """Paths of the denoiser's blocks, in the order of the forward pass: down, middle and up, or the blocks of a transformer."""
    place, denoiser = model.place, model.denoiser
    names = [n for n, _ in denoiser.named_modules()]
    of_unet = ("down_blocks", "mid_block", "up_blocks")
    lists = [p for p in of_unet if p in names] if of_unet[0] in names else ["transformer_blocks"]
    return tuple(
        f"{place}.{part}" if part == "mid_block" else f"{place}.{part}.{i}"
        for part in lists
        for i in range(1 if part == "mid_block" else len(getattr(denoiser, part)))
    )


@torch.no_grad()
def frozen(module: nn.Module) -> nn.Module:
    """A module that never trains, such as a VAE."""
    return module.eval().requires_grad_(False)

"""Two denoisers that share a picture: one of scenes, one of subjects, which also reads reference pictures.

Source: Face-diffuser (arXiv 2311.10329), whose model of subjects follows FastComposer.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.modalities.diffusion.subjects import ReferenceEncoder, SubjectFusion


class RecordedAttention:
    """Attention of `diffusers` that keeps its probabilities while it is asked to."""

    def __init__(self) -> None:
        self.asked = False
        self.kept: Tensor | None = None  # (batch, heads, places, words)

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        batch, places, _width = hidden_states.shape
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        read = ((attn.to_q, hidden_states), (attn.to_k, states), (attn.to_v, states))
        q, k, v = (attn.head_to_batch_dim(project(x)) for project, x in read)
        weights = attn.get_attention_scores(q, k, attention_mask)
        if self.asked:
            self.kept = weights.view(batch, -1, places, states.shape[1])
        out: Tensor = attn.to_out[0](attn.batch_to_head_dim(torch.bmm(weights, v)))
        return out


class Predictions(NamedTuple):
    """What both denoisers predict, and where words are read.

    Args:
        scene, subject: (batch, channels, height, width).
        attention: of each layer of the denoiser of subjects that reads words, each (batch, heads, places, words).
    """

    scene: Tensor
    subject: Tensor
    attention: list[Tensor]


class SubjectModel(nn.Module):
    """Denoisers of scenes and of subjects, with one text encoder.

    Args:
        scene, subject: UNets of `diffusers`.
        text_encoder: makes states of tokens.
        reference: makes features of reference pictures.
        fusion: of states and features.
    """

    resting: tuple[str, ...] = ()  # names of children that train only where a plan names their parameters

    def __init__(
        self, scene: nn.Module, subject: nn.Module, text_encoder: nn.Module, reference: ReferenceEncoder, fusion: SubjectFusion
    ) -> None:
        super().__init__()
        self.entries: dict[str, Any] = {}  # what builds it, as plain data
        self.scene, self.subject, self.text_encoder = scene, subject, text_encoder
        self.reference, self.fusion = reference, fusion
        self.record()

    def record(self) -> None:
        """Let the layers of the denoiser of subjects that read words keep where they read them."""
        for name, module in self.subject.named_modules():
            if name.endswith("attn2"):
                module.set_processor(RecordedAttention())

    @property
    def layers(self) -> list[RecordedAttention]:
        """The layers that keep where words are read."""
        return [m.processor for n, m in self.subject.named_modules() if n.endswith("attn2")]

    def states(self, tokens: Tensor) -> Tensor:
        """States of texts, (texts, words, width). tokens: (texts, words)."""
        states: Tensor = self.text_encoder(tokens)[0]
        return states

    def fused(self, states: Tensor, references: Tensor, places: Tensor) -> Tensor:
        """States with subjects.

        Args:
            states: (batch, words, width).
            references: pictures from -1 to 1, (batch, subjects, channels, side, side).
            places: of each subject's word, (batch, subjects); -1: no such subject.

        Returns:
            (batch, words, width)
        """
        if not places.numel():
            return states
        features = self.reference(references.flatten(0, 1)).view(*places.shape, -1)
        fused: Tensor = self.fusion(states, features, places)
        return fused

    def forward(
        self, latents: Tensor, times: Tensor, tokens: Tensor, which: Tensor, references: Tensor, places: Tensor, attention: bool = False
    ) -> Predictions:
        """Predict with both.

        Args:
            latents: with noise, (batch, channels, height, width).
            times: (batch,).
            tokens: of distinct texts, (texts, words).
            which: the text of each latent, (batch,).
            references, places: as of `fused`.
            attention: whether to record where words are read.
        """
        states = self.states(tokens)[which]
        for layer in self.layers:
            layer.asked, layer.kept = attention, None
        of_scene = self.scene(latents, times, encoder_hidden_states=states, return_dict=False)[0]
        of_subject = self.subject(latents, times, encoder_hidden_states=self.fused(states, references, places), return_dict=False)[0]
        maps = [layer.kept for layer in self.layers if layer.kept is not None]
        for layer in self.layers:
            layer.asked, layer.kept = False, None
        return Predictions(of_scene, of_subject, maps)

    def untrained(self) -> SubjectModel:
        """The same model with new weights."""
        scene, subject = (type(u).from_config(u.config) for u in (self.scene, self.subject))  # type: ignore[attr-defined]
        encoder: Any = self.text_encoder
        of_text = type(encoder)(copy.deepcopy(encoder.config))
        fresh = SubjectModel(scene, subject, of_text, self.reference.untrained(), SubjectFusion(self.fusion.width))
        fresh.entries = self.entries
        return fresh.to(next(self.parameters()).dtype)

    def blocks(self) -> tuple[str, ...]:
        """Paths of the blocks of both denoisers, each in the order of the forward pass."""
        paths = []
        for name in ("scene", "subject"):
            unet: Any = getattr(self, name)
            parts = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))] + ["mid_block"]
            paths += [f"{name}.{part}" for part in [*parts, *(f"up_blocks.{i}" for i in range(len(unet.up_blocks)))]]
        return tuple(paths)

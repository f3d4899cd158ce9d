"""Concept ablation: train the model to predict under the prompt to forget what it predicts under an anchor, such as a broader concept.

A prompt for the concept is then drawn as one for the anchor. The model being trained is its own teacher, without a gradient.

Equation: L = MSE(e(x_t,c*), sg e(x_t,c)) + w MSE(e(x_t,c), what noise gives), x pictures of the anchor c, c* the same caption with the
  concept in the anchor's place; no gradient through the first token's keys and values
Source: Kumari et al. 2023 (ICCV), Ablating concepts in text-to-image diffusion models, arXiv 2303.13516
Needs: forget (prompts alone), and a model that draws the anchor, or retain rows of it (`pictures retain`)
Cost: once, a sampling for each of `anchor_pictures`; a step has two forward passes and a backward of the anchor's pictures, and as much
  for w, which is half of it
Differs: pictures keep their size, while the authors scale them at random and average over the pasted part; both terms see the whole batch,
  while their first code gives each half of it. 110 steps with batches of 8 are those of two devices; w is 1 in their second code
Status: faithful
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.methods.concepts import pairs, replaced
from expunge.methods.denoising import CAPTION_READERS, captioned, squared_error
from expunge.methods.terms import SetTerm

BATCH = 16  # pictures sampled at once


@part
class AnchorPictures(Selector):
    """Gives pictures of the anchor: rows with the caption of the concept, and beside it that of the anchor."""

    concept: str = hp("", "what to erase, in words that captions of the forget rows contain; '': these captions as a whole")
    anchor_concept: str = hp("", "what is drawn in place of the concept, such as a broader concept; '': the empty prompt")
    pictures: Literal["drawn", "retain"] = hp(
        "drawn", "drawn: the model draws them; retain: the retain rows whose captions contain the anchor"
    )
    anchor_pictures: int = hp(1000, "drawn: their number; each caption gets as many, and at least one", ge=1)
    requires = frozenset({Denoises})
    gives = frozenset({"anchor"})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget"} if self.pictures == "drawn" else {"retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = self._drawn(view) if self.pictures == "drawn" else self._retained(view.retain)
        return {**sets, "anchor": rows}

    def _drawn(self, view: View) -> Rows:
        couples = pairs(view.forget, self.concept, self.anchor_concept)
        couples = couples * max(1, self.anchor_pictures // len(couples))
        seeds = torch.randint(2**62, (len(couples),), generator=view.rng()).tolist()
        records: list[dict[str, Any]] = []
        for i in range(0, len(couples), BATCH):
            captions = [anchor for _, anchor in couples[i : i + BATCH]]
            latents, _ = view.sample(captions, seeds[i : i + BATCH])
            records += pictured(require(view.modality, Denoises).drawn(latents), [concept for concept, _ in couples[i : i + BATCH]])
        return view.modality.rows("anchor", records).add(aside=[anchor for _, anchor in couples])

    def _retained(self, retain: Rows) -> Rows:
        if not self.concept or not self.anchor_concept:
            raise UserError("pictures of retain rows need --concept and --anchor-concept in words: the one takes the place of the other")
        captions = [replaced(c, self.anchor_concept, self.concept) for c in retain["caption"]]
        at = [i for i, (new, old) in enumerate(zip(captions, retain["caption"], strict=True)) if new != old]
        if not at:
            raise UserError(
                f"no caption of the retain rows contains the anchor {self.anchor_concept!r}: give words that stand in a caption"
            )
        return retain.select(at).add(aside=[retain["caption"][i] for i in at], caption=[captions[i] for i in at]).rename("anchor")


def pictured(pictures: Tensor, captions: Sequence[str]) -> list[dict[str, Any]]:
    """Records of pictures, bytes (rows, channels, height, width), with their captions."""
    arrays = pictures.cpu().permute(0, 2, 3, 1).numpy()
    return [{"image": a if a.shape[2] > 1 else a[:, :, 0], "caption": c} for a, c in zip(arrays, captions, strict=True)]


@dataclass(frozen=True)
class FirstTokenFixed:
    """A patch that stops the gradient through keys and values of a caption's first token."""

    paths: tuple[str, ...]

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for path in self.paths:
                for name in ("to_k", "to_v"):
                    stack.callback(model.get_submodule(f"{path}.{name}").register_forward_hook(self._stopped).remove)
            yield

    def _stopped(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1].detach(), out[:, 1:]], 1)


@part
class AsAnchor(SetTerm):
    """Squared distance between predictions under the concept and under the anchor, the latter without a gradient."""

    over: str = "anchor"
    requires = frozenset({Denoises})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        target: Any = step.look(captioned(step, rows, rows["aside"]))
        patch = FirstTokenFixed(tuple(require(step.modality, Denoises).cross_attention(step.model)))
        output: Any = step.now(captioned(step, rows, rows["caption"]), patch)
        return step.mean(squared_error(output.prediction, target.prediction.values), rows)


@part
class AnchorNoise(SetTerm):
    """The loss of denoising the anchor's pictures under the anchor's captions."""

    over: str = "anchor"
    requires = frozenset({Denoises})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(captioned(step, rows, rows["aside"])).loss, rows)


def plan() -> Plan:
    train = Train(epochs=0, steps=110, lr=1.6e-5, batch_size=8, weight_decay=0.01, optimizer="adamw", schedule="constant", anchor="anchor")
    return Plan(AsAnchor() + 0.2 * AnchorNoise(), train=train, selectors=(AnchorPictures(),), trainable=CAPTION_READERS)

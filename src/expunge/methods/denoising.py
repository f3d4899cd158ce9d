"""What methods for diffusion models share: samples that stop midway, distances of predictions, and names of the layers that train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Denoises, require
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Selector
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import Step, View
from expunge.methods.concepts import CONCEPT, prompts
from expunge.methods.terms import SetTerm
from expunge.modalities.common.packed import exact

# Patterns of the parameters that train.
CROSS_ATTENTION = r"attn2\."
CAPTION_READERS = r"attn2\.to_[kv]\."
SELF_ATTENTION = r"attn1\."
DENOISER = r"^(?!text_encoder)"
BUT_CROSS_ATTENTION = rf"{DENOISER}(?!.*(attn2\.|conv_out\.|conv_norm_out\.|time_embedding\.))"


def squared_error(prediction: Packed, target: Tensor) -> Packed:
    """The mean over the elements of a latent of the squared distance to a target without gradient, for each draw, (draws,)."""
    fixed = exact(target.detach())
    return prediction.map(lambda predicted: (exact(predicted) - fixed).square().flatten(1).mean(1))


def captioned(step: View, rows: Rows, captions: Sequence[str]) -> Rows:
    """The same pictures, noise and times under these captions, none of which is left out at random."""
    return require(step.modality, Denoises).recaption(rows, captions)


def frozen(step: Step, *groups: Rows) -> list[Tensor]:
    """What the reference predicts for several groups of rows with one draw each, in one forward pass: (rows, ...) for each."""
    together = groups[0]
    for rows in groups[1:]:
        together = together.concat(rows)
    output: Any = step.reference(together)
    return list(output.prediction.values.split([len(g) for g in groups]))


@part
class AsBefore(SetTerm):
    """Squared distance to what the model before predicts for the same rows."""

    over: str = "retain"
    requires = frozenset({Denoises})
    needs = frozenset({Need.REFERENCE})
    role = "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        before: Any = step.reference(rows)
        now: Any = step.now(rows)
        return step.mean(squared_error(now.prediction, before.prediction.values), rows)


@part
class PartialSamples(Selector):
    """Samples the prompt of each row up to a step that is drawn, and puts the rows at these noisy latents."""

    when: ClassVar[Literal["start", "epoch", "step"]] = "step"
    concept: str = hp("", CONCEPT)
    erase_from: str = hp("", "prompt that is sampled and trained instead of the concept, such as 'cowboy hat' to erase 'cowboy' from it")
    sampling_steps: int = hp(50, "steps of a whole sampling", ge=1)
    start_guidance: float = hp(3.0, "guidance of the sampling", ge=0)
    times: Literal["cell", "grid"] = hp(
        "cell", "time at which predictions are compared: drawn between two steps of the sampling, or that of the latents"
    )
    sampled_by: Literal["model", "reference"] = hp("model", "who samples: the model being trained, or the one before")
    over: str = "forget"
    into: str = "partial"
    beside: str = ""  # a set whose captions are sampled as they are, into `kept`
    requires = frozenset({Denoises})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over} | ({self.beside} if self.beside else set()))

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.into} | ({"kept"} if self.beside else set()))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({Need.REFERENCE} if self.sampled_by == "reference" else ())

    def pick(self, sets: Sets, view: View) -> Sets:
        modality, rows, rng = require(view.modality, Denoises), view.rows(self.over), view.rng()
        concepts = prompts(view.whole_set(self.over), rows, self.concept)
        rows = modality.recaption(rows, [self.erase_from] if self.erase_from else concepts, self.into).add(concept=concepts)
        sampled = {self.into: self._sampled(rows, view, rng)}
        if self.beside:
            sampled["kept"] = self._sampled(view.rows(self.beside).rename("kept"), view, rng)
        return {**sets, **sampled}

    def _sampled(self, rows: Rows, view: View, rng: torch.Generator) -> Rows:
        """The rows at latents of a sampling that stops at a step that is drawn."""
        modality = require(view.modality, Denoises)
        seeds = torch.randint(2**62, (len(rows),), generator=rng).tolist()
        latents, at = view.sample(
            rows["caption"],
            seeds,
            reference=self.sampled_by == "reference",
            steps=self.sampling_steps,
            guidance=self.start_guidance,
            until=int(torch.randint(self.sampling_steps, (1,), generator=rng)),
        )
        if self.times == "cell":
            width = modality.time_count() / self.sampling_steps
            uniform = torch.rand(len(rows), generator=rng, dtype=torch.float64).tolist()
            at = torch.tensor([within(int(t), width, u) for t, u in zip(at, uniform, strict=True)])
        return modality.placed(rows, latents, at)


def within(at: int, width: float, uniform: float) -> int:
    """A time of the grid cell that holds a time, drawn by a number from 0 to 1.

    Args:
        at: index of a time.
        width: times between two steps of the grid.
        uniform: from 0 to 1, without 1.
    """
    cell = int(at / width)
    first, end = math.ceil(cell * width), math.ceil((cell + 1) * width)
    return first + int(uniform * (end - first))

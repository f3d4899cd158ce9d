"""Merging: average the weights with those of a relative, such as the base model of the original, and see what comes back.
People merge fine-tuned models of one family to join what they can do; a mean of an unlearned model and a relative may know again.

Threat model: the attacker holds the weights, and those of another model of the same family (base model, sibling, earlier version); a
    guard around the weights is taken off, adapters are merged.
Equation: w' = (1 - a) w + a w_family
Source: Wortsman et al. 2022, arXiv 2203.05482 (averages of weights); Ilharco et al. 2023, arXiv 2212.04089 (task vectors that are added)
Scores: those of the forget set, for each share of the relative
Needs: forget; `family`, a model with the same tensors that does not know the rows itself: what it knows, any mean with it shows
Range and ideal: those of the scores; the ideal is the retrained model's, merged with the same relative
Differs: nothing
Status: faithful
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.engine import adapters
from expunge.engine.weights import tensors_of
from expunge.evaluation.attack import Attack, Scene
from expunge.io.models import opened


@part
class Merge(Attack):
    """Averages weights."""

    family: str = hp("", "a model of the same family: a folder or hub id")
    share: tuple[Annotated[float, Field(ge=0, le=1)], ...] = hp((0.25, 0.5, 0.75), "share of the relative in the mean", min_length=1)

    def run(self, scene: Scene) -> None:
        if not self.family:
            scene.lacks("no model of the same family is named: give --family MODEL, such as the base model before fine-tuning")
            return
        relative = adapters.merged(opened(self.family).model)
        for share in self.share:
            scene.look(scene.scores(averaged(scene.bare(merged=True), relative, share)), f"{share:.0%} of the relative", share=share)


@torch.no_grad()
def averaged(model: nn.Module, relative: nn.Module, share: float) -> nn.Module:
    """The model with its weights moved to those of a relative, in place.

    Args:
        share: of the relative, from 0 to 1.

    Raises:
        UserError: where the tensors of the two models differ in names or shapes.
    """
    own, other = model.state_dict(), relative.state_dict()  # where a tied weight stands by all of its names
    if odd := sorted(n for n in own.keys() | other.keys() if n not in own or n not in other or own[n].shape != other[n].shape):
        raise UserError(f"the models are of different families: {len(odd)} of their tensors have no counterpart, such as {odd[0]}")
    for name, weight in tensors_of(model).items():
        if weight.is_floating_point():
            weight.copy_(torch.lerp(weight, other[name].to(weight), share))
    return model


def plan() -> Merge:
    return Merge()

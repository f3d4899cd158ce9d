"""UCE: rewrite how the denoiser reads the words to forget, in closed form, and keep how it reads the retain captions.

No picture and no training step is needed. Every matrix of keys and of values in cross-attention is the solution of a ridge regression.

Equation: W' = (a sum_E v* k^T + p sum_P (W k) k^T + lambda W) (a sum_E k k^T + p sum_P k k^T + lambda I)^-1 for each to_k and to_v of
  cross-attention; k states of the text encoder; E those of the erased prompts, P those of the retain captions; v* = W k_guide (replace),
  or W k_guide minus its part along W k, both as one flat vector (tensor)
Source: Gandikota et al. 2024 (WACV), Unified concept editing, arXiv 2308.14761; settings of UnlearnCanvas, arXiv 2402.11846
Needs: forget (prompts alone), and retain (prompts alone) unless `preserve_weight 0`; a text encoder
Cost: one pass of the text encoder over the captions, and one solution of a linear system for each matrix, in float64
Differs: with a `concept`, every forget caption that contains it is erased besides the concept alone, each beside the same caption with the
  guide in its place, from the last token of the concept on; the authors erase the listed prompts, from their last token on, which is the
  same for a prompt that is the concept. `states last` is the authors' present code: one vector for each prompt
Status: shown
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Denoises, require
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Edit
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.methods.concepts import last_place, pairs

CHUNK = 256  # captions in one pass of the text encoder


@part
class ReadOtherwise(Edit):
    """Fits keys and values of cross-attention: those of erased words to those of a guide, those of other captions to themselves."""

    concept: str = hp("", "what to erase, in words that captions of the forget rows contain; '': these captions as a whole")
    guide: str = hp("", "what is read in place of the concept, such as a neutral word; '': nothing")
    erase_weight: float = hp(1.0, "a, weight of the erased words; 0: nothing changes", ge=0)
    preserve_weight: float = hp(-1.0, "p, weight of each retain caption; -1: 1 / their number, and at least 0.1; 0: none is read", ge=-1)
    ridge: float = hp(0.5, "lambda, the pull of the matrix toward itself", gt=0)
    target: Literal["replace", "tensor"] = hp("replace", "replace: the guide's values; tensor: these without the part along the old ones")
    states: Literal["tail", "last"] = hp(
        "tail", "tail: states from the last token of the concept to the end, and all of retain captions; last: that of one token each"
    )
    requires = frozenset({Denoises})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "retain"} if self.preserve_weight else {"forget"})

    def apply(self, view: View) -> None:
        modality = require(view.modality, Denoises)
        erased = self._erased(view, modality)
        kept = list(dict.fromkeys(view.retain["caption"])) if self.preserve_weight else []
        p = max(0.1, 1 / max(1, len(kept))) if self.preserve_weight < 0 else self.preserve_weight
        width = erased[0][0].shape[1]
        gram = torch.zeros(width, width, dtype=torch.float64)
        for i in range(0, len(kept), CHUNK):
            states = self._kept(modality, view.model, kept[i : i + CHUNK])
            gram += states.T @ states
        for path in modality.cross_attention(view.model):
            for name in ("to_k", "to_v"):
                weight: Any = view.modality.module(view.model, f"{path}.{name}").weight
                weight.copy_(solved(weight.detach().cpu().double(), erased, gram, self.erase_weight, p, self.ridge, self.target))

    def _erased(self, view: View, modality: Denoises) -> list[tuple[Tensor, Tensor]]:
        """For each erased prompt its states and those of its guide, both (positions, width), in float64."""
        couples = pairs(view.forget, self.concept, self.guide)
        result = []
        for caption, guide in couples:
            at = last_place(modality, caption, [self.concept])
            to = last_place(modality, guide, [self.guide])
            if self.concept and not self.guide:  # the guide ends where the concept began
                to = max(0, at - len(modality.content_tokens([self.concept])[0]))
            states = modality.encode(view.model, [caption, guide]).detach().cpu().double()
            long = 1 if self.states == "last" else states.shape[1] - max(at, to)
            result.append((states[0, at : at + long], states[1, to : to + long]))
        return result

    def _kept(self, modality: Denoises, model: Any, captions: list[str]) -> Tensor:
        """States of captions that stay, (positions, width), in float64."""
        states = modality.encode(model, captions).detach().cpu().double()
        if self.states == "last":
            return states[torch.arange(len(captions)), [last_place(modality, c) for c in captions]]
        return states.flatten(0, 1)


def solved(
    weight: Tensor,
    erased: list[tuple[Tensor, Tensor]],
    gram: Tensor,
    erase_weight: float,
    preserve_weight: float,
    ridge: float,
    target: Literal["replace", "tensor"] = "replace",
) -> Tensor:
    """The matrix that reads erased states as their guides.

    Args:
        weight: W, (outputs, width), float64.
        erased: for each prompt its states and those of its guide, each (positions, width).
        gram: sum of k k^T over preserved states, (width, width).
        erase_weight, preserve_weight, ridge: a, p and lambda.
        target: how v* is made of the guide's values.

    Returns:
        W', of the shape of `weight`.
    """
    identity = torch.eye(weight.shape[1], dtype=weight.dtype)
    change, total = torch.zeros_like(weight), preserve_weight * gram + ridge * identity
    for k, guide in erased:  # W' = W + (a sum (v* - W k) k^T) (...)^-1, the same equation without the terms that cancel
        old, new = k @ weight.T, guide @ weight.T
        if target == "tensor":
            unit = old / torch.linalg.vector_norm(old)
            new = new - (unit * new).sum() * unit
        change += erase_weight * (new - old).T @ k
        total = total + erase_weight * k.T @ k
    return weight + torch.linalg.solve(total, change, left=False)


def plan() -> Plan:
    return Plan(ReadOtherwise())

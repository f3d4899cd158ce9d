"""The contrastive term that some models with several views of their rows train with, beside the loss of the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.core.capabilities import LooksUp, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective, Sum
from expunge.core.view import Step
from expunge.engine.adapters import base_of
from expunge.functional.contrast import info_nce
from expunge.methods.terms import NLL, SetTerm

WEIGHT = "weight of the contrastive term that the model trains with beside its loss (MGCN: 0.001 to 0.1); 0: none"


@part
class Contrast(SetTerm):
    """InfoNCE between both views of all that the rows of a batch look up, summed over the kinds (in recommenders users and items).

    The other vectors of a batch are its negatives, so that, unlike other terms, it depends on how a batch is divided.
    """

    over: str = "retain"
    temperature: float = hp(0.2, "tau, that cosines are divided by", gt=0)
    requires = frozenset({LooksUp})
    role = "contrast"

    def loss(self, step: Step) -> Tensor:
        rows, base = step.rows(self.over), base_of(step.model)
        contrasted: Any = getattr(base, "contrasted", None)
        if contrasted is None:
            raise UserError(f"{type(base).__name__} has no views to contrast: leave --contrast out")
        share = len(rows) / step.count(rows, "rows")  # of this micro-batch
        lookups = require(step.modality, LooksUp).lookups(step.model, rows)
        terms = [info_nce(a[at], b[at], self.temperature) for (at, _), (a, b) in zip(lookups, contrasted(), strict=True)]
        return share * torch.stack(terms).sum()


def trained_with(contrast: float) -> Objective | Sum:
    """The loss that training minimizes on the retain rows, with a contrastive term of this weight."""
    return NLL("retain") + contrast * Contrast() if contrast else NLL("retain")

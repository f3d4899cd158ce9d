"""What methods for linear models share: a deep model with all but its head frozen is a linear model of its features."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.hyperparameters import part
from expunge.core.modality import Weights
from expunge.core.parts import Part
from expunge.core.random import seed_of
from expunge.core.request import contents
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.adapters import base_of

BATCH = 64  # rows in one forward pass
FROZEN = (
    "the layers below the head learned from the rows (they are frozen, and nothing is taken out of them)",
    "the noise is known: the store or the state of its random numbers is published",
)


@part
class HeadInput(Part):
    """Looks at what the head of a model reads."""

    path: str

    @property
    def hook_points(self) -> tuple[str, ...]:
        return (self.path,)


def head_of(view: View) -> tuple[str, nn.Linear]:
    """The head of a model, and its path.

    Raises:
        UserError: if it is no linear layer of its own.
    """
    path = view.modality.head(view.model)
    base = base_of(view.model)
    head = base.get_submodule(path)
    names = [n for n, p in base.named_parameters(remove_duplicate=False) if p is getattr(head, "weight", None)]
    if not isinstance(head, nn.Linear) or len(names) != 1:
        raise UserError("this method fits the head of a model, which must be a linear layer with weights that no other layer shares")
    return path, head


def table_of(view: View, rows: Rows) -> dict[str, Any]:
    """Rows as a linear model sees them: `x`, features of unit length (rows, width) in double precision, `labels`, and what names the rows.

    Raises:
        UserError: if a row has several labels.
    """
    path, head = head_of(view)
    looker, features, labels = view.at("head", HeadInput(path)), list[Tensor](), list[Tensor]()
    for at in range(0, len(rows), BATCH):
        output = looker.now(rows.select(range(at, min(at + BATCH, len(rows)))))
        features.append(output.input(path, answers=True).values.double().cpu())
        labels.append(output.labels.cpu())
    x = torch.cat(features)
    if len(x) != len(rows):
        raise UserError("this method fits one label for each row, and these rows have several")
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    names = Rows(rows.name, rows.ids, {"content": contents(rows)})
    return {
        "x": x,
        "labels": torch.cat(labels),
        "rows": names,
        "classes": head.out_features,
    }


def without(table: Mapping[str, Any], leaving: list[bool]) -> dict[str, Any]:
    """A table without some rows.

    Raises:
        UserError: if no row is left.
    """
    places = [i for i, leaves in enumerate(leaving) if not leaves]
    if not places:
        raise UserError("no row would be left in the store: delete it, and keep the model that it began with")
    return {**table, "x": table["x"][places], "labels": table["labels"][places], "rows": table["rows"].select(places)}


def targets_of(table: Mapping[str, Any]) -> Tensor:
    """1 for the class of a row and -1 for the others, (rows, classes)."""
    return 2 * nn.functional.one_hot(table["labels"], table["classes"]).double() - 1


def head_weights(view: View, w: Tensor) -> Weights:
    """The weights of a head by name. w: (width, classes); the head has no bias."""
    path, head = head_of(view)
    weights = {f"{path}.weight": w.T.to(head.weight)}
    return weights if head.bias is None else {**weights, f"{path}.bias": torch.zeros_like(head.bias)}


def noise_of(shape: tuple[int, ...], secret: bool, *place: object) -> Tensor:
    """Standard normal numbers in double precision.

    Args:
        secret: from the operating system, so that nobody can repeat them; otherwise from a place such as (seed, "noise", 0).
    """
    seed = secrets.randbits(63) if secret else seed_of(*place)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

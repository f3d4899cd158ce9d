"""Norms of the gradients of given answers, and what the forward that they cost says of these on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators.ghost_norms import gradient_norms
from expunge.evaluation.teacher_forced import Place, Told, batches, read, room

BACK = 1024  # positions in one forward and backward pass
ROOM = {"cpu": 2**25, "cuda": 2**27}  # scores of classes in one, which are there several times over

Norms = NDArray[np.float32]


def gradients(model: nn.Module, modality: Modality, sets: Mapping[str, Rows], moments: bool) -> tuple[dict[str, Norms], dict[Place, Told]]:
    """Mean gradient norms of the answers of some sets, and what the same forward says of them: they need not be read a second time."""
    first, *rest = sets.values()
    rows = reduce(Rows.concat, rest, first)
    norms, told = dict[str, Norms](), dict[Place, Told]()
    each, parts = _norms(model, modality, rows, moments)
    at = 0
    for name, some in sets.items():
        norms[name], told[name, "answer"] = each[at : at + len(some)], parts[at : at + len(some)]
        at += len(some)
    return norms, told


def mean_gradient_norms(model: nn.Module, modality: Modality, rows: Rows) -> Norms:
    """Of each row, the mean over weight tensors of the L2 norm of the gradient of its average loss, an end label left out, (rows,)."""
    return _norms(model, modality, rows, False)[0]


def _norms(model: nn.Module, modality: Modality, rows: Rows, moments: bool) -> tuple[Norms, Told]:
    """The norms, and what was seen of the labels on the way."""
    ended = torch.tensor(modality.ended(rows), dtype=torch.bool)
    told = room(modality, rows, moments)

    def losses(answer: ModelOutput, places: Sequence[int]) -> torch.Tensor:
        logp, lengths = answer.target_logp, answer.target_logp.lengths  # kept by the answer, so first here, where it has a gradient
        read(answer, [told[i] for i in places])
        left = ended[list(places)].to(lengths.device) & (lengths > 1)
        counts = torch.ones_like(logp.values).index_fill(0, (lengths.cumsum(0) - 1)[left], 0)
        return -logp.map(lambda x: x * counts).sum() / (lengths - left.long()).clamp_min(1)

    norms = gradient_norms(model, modality, rows, losses, batches(modality, rows, positions(model, modality)))
    return (norms.mean(1).numpy() if len(rows) else np.zeros(0, np.float32)), told


def positions(model: nn.Module, modality: Modality) -> int:
    """How many positions one forward and backward pass may have: fewer where there are many classes."""
    with suppress(UserError):
        classes = getattr(modality.module(model, modality.head(model)), "out_features", 1)
        return max(1, min(BACK, ROOM.get(next(model.parameters()).device.type, ROOM["cuda"]) // classes))
    return BACK

"""Norms of the gradients of given answers, and the label scores that the same forward pass gives."""

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
from expunge.engine import memory
from expunge.engine.estimators.ghost_norms import gradient_norms
from expunge.evaluation.teacher_forced import LabelScores, SetKind, batches, empty_label_scores, fill_label_scores

BACK = {"cpu": 512, "cuda": 1024}  # positions in one forward and backward pass: more take as long on a CPU, and memory
ROOM = {"cpu": 2**25, "cuda": 2**27}  # logits in one pass, of which several copies exist

Norms = NDArray[np.float32]


def gradients(
    model: nn.Module, modality: Modality, sets: Mapping[str, Rows], moments: bool
) -> tuple[dict[str, Norms], dict[SetKind, LabelScores]]:
    """Mean gradient norms of the answers of some sets, and label scores from the same forward pass."""
    first, *rest = sets.values()
    rows = reduce(Rows.concat, rest, first)
    norms, label_scores = dict[str, Norms](), dict[SetKind, LabelScores]()
    all_norms, all_scores = _norms(model, modality, rows, moments)
    offset = 0
    for name, set_rows in sets.items():
        end = offset + len(set_rows)
        norms[name], label_scores[name, "answer"] = all_norms[offset:end], all_scores[offset:end]
        offset = end
    return norms, label_scores


def mean_gradient_norms(model: nn.Module, modality: Modality, rows: Rows) -> Norms:
    """The mean over weight tensors of the L2 norm of the gradient of each row's average loss, without an end label, (rows,)."""
    return _norms(model, modality, rows, False)[0]


def _norms(model: nn.Module, modality: Modality, rows: Rows, moments: bool) -> tuple[Norms, LabelScores]:
    """The norms, (rows,), and the label scores of the same forward pass."""
    ended = torch.tensor(modality.ended(rows), dtype=torch.bool)
    label_scores = empty_label_scores(modality, rows, moments)

    def losses(output: ModelOutput, indices: Sequence[int]) -> torch.Tensor:
        logp, lengths = output.target_logp, output.target_logp.lengths  # cached by the output, so computed first here, with a gradient
        fill_label_scores(output, [label_scores[i] for i in indices])
        drop_end = ended[list(indices)].to(lengths.device) & (lengths > 1)
        counts = torch.ones_like(logp.values).index_fill(0, (lengths.cumsum(0) - 1)[drop_end], 0)
        return -logp.map(lambda x: x * counts).sum() / (lengths - drop_end.long()).clamp_min(1)

    norms = gradient_norms(model, modality, rows, losses, batches(modality, rows, positions(model, modality)))
    return (norms.mean(1).numpy() if len(rows) else np.zeros(0, np.float32)), label_scores


def positions(model: nn.Module, modality: Modality) -> int:
    """The most positions of one forward and backward pass: fewer for a model with many classes, and where memory is bounded."""
    device = next(model.parameters()).device.type
    most = BACK.get(device, BACK["cuda"])
    with suppress(UserError):
        classes = getattr(modality.module(model, modality.head(model)), "out_features", 1)
        most = max(1, min(most, ROOM.get(device, ROOM["cuda"]) // classes))
    return memory.fitting(most, memory.position_bytes(model, gradients=True) + memory.logits_bytes(model))

"""Accuracy of a model on rows."""

from __future__ import annotations

import torch
from torch import nn

from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.ensemble import alone, logits


def accuracy(model: nn.Module, modality: Modality, rows: Rows) -> float:
    """Share of the labels that are the most probable class of the model; each row has one label."""
    labels = torch.tensor([y for (y,) in rows["answer"]])
    return float((logits(alone(model), modality, rows)[0].argmax(-1).cpu() == labels).float().mean())

"""Small classifiers that learn some rows, for tests of the data: whether there is something in it to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image, shape_of
from expunge.modalities.image.models import vision


def learned(rows: Sequence[dict[str, Any]], classes: int, epochs: int) -> tuple[Image, nn.Module]:
    """A small residual network trained on rows, and its modality."""
    modality = Image(tuple(map(str, range(classes))))
    model = vision.build("resnet-nano", shape_of(rows), modality.labels, seed=0)
    train = Train(epochs=epochs, lr=2e-3, batch_size=32, anchor="retain", warmup=0, weight_decay=0.0)
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", rows)})
    return modality, model.eval()


@torch.no_grad()
def accuracy(modality: Image, model: nn.Module, rows: Sequence[dict[str, Any]]) -> float:
    encoded = modality.rows("asked", rows)
    predictions = modality.forward(model, [encoded])[0].log_probs.values.argmax(-1)
    return float((predictions == torch.tensor([y for (y,) in encoded["answer"]])).float().mean())

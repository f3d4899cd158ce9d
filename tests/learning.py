"""Small classifiers that learn some rows, for tests of the data: whether there is something in it to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.parts import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image, shape_of
from expunge.modalities.image.models import vision


def learned(rows: Sequence[dict[str, Any]], classes: int, epochs: int) -> tuple[Image, nn.Module]:
    """A small residual network trained on rows, and its port."""
    port = Image(tuple(map(str, range(classes))))
    model = vision.build("resnet-nano", shape_of(rows), port.labels, seed=0)
    train = Train(epochs=epochs, lr=2e-3, batch=32, anchor="retain", warmup=0, decay=0.0)
    loop.run((Plan(NLL("retain"), train=train),), model, port, {"retain": port.rows("retain", rows)})
    return port, model.eval()


@torch.no_grad()
def accuracy(port: Image, model: nn.Module, rows: Sequence[dict[str, Any]]) -> float:
    asked = port.rows("asked", rows)
    said = port.forward(model, [asked])[0].dist.values.argmax(-1)
    return float((said == torch.tensor([y for (y,) in asked["answer"]])).float().mean())

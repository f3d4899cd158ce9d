"""Points in the plane as images of two pixels, and perceptrons that learn them quickly, for tests with many models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expunge.core.plan import Plans
from expunge.core.rows import Rows
from expunge.modalities.image.modality import Image
from expunge.workflows.build_plan import plan


def rows(points: Tensor, labels: Sequence[int], modality: Image, name: str = "retain") -> Rows:
    """Rows from points, (rows, 2), and labels."""
    return modality.rows(name, [{"image": p.view(1, 1, -1).numpy(), "label": int(y)} for p, y in zip(points.float(), labels, strict=True)])


def noise(n: int, modality: Image, seed: int = 0, name: str = "retain", width: int = 2) -> Rows:
    """Random points with independent random labels: a model can know a label only by memorizing it."""
    g = torch.Generator().manual_seed(seed)
    return rows(torch.randn(n, width, generator=g), torch.randint(len(modality.labels), (n,), generator=g).tolist(), modality, name)


def modality(classes: int) -> Image:
    """An image modality with numbered classes."""
    return Image(tuple(map(str, range(classes))))


def mlp(classes: int, hidden: int = 16, width: int = 2, norm: bool = False, seed: int = 0) -> nn.Module:
    """A perceptron with one hidden layer, and batch norm if asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(hidden)] if norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(width, hidden), *middle, nn.ReLU(), nn.Linear(hidden, classes)).eval()


def fresh(**train: object) -> Plans:
    """A plan that trains new weights on the set `retain`."""
    return plan("retrain", {"lr": 2e-2, "warmup": 0, "weight_decay": 0.0, **train})

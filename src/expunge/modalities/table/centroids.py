"""Centroids of clusters as a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Centroids(nn.Module):
    """Centroids, some of which may be unused: there can be fewer different points than clusters.

    Args:
        width: inputs of a point.
        clusters: how many centroids there are at most.
    """

    used: nn.Parameter  # (clusters,) which ones count; no gradient changes it
    centroids: Tensor  # (clusters, width)

    def __init__(self, width: int, clusters: int = 1) -> None:
        super().__init__()
        self.width = width
        self.reshape(clusters)

    def reshape(self, clusters: int) -> None:
        """Become so many centroids, all of them 0 and the first one used, on the same device."""
        device = self.centroids.device if "centroids" in self._buffers else None
        self.used = nn.Parameter(torch.arange(clusters, device=device) == 0, requires_grad=False)
        self.register_buffer("centroids", torch.zeros(clusters, self.width, device=device))

    def reset_parameters(self) -> None:
        """Know nothing: one centroid at 0."""
        self.reshape(len(self.centroids))

    @property
    def settings(self) -> dict[str, int]:
        """What builds centroids of this shape."""
        return {"width": self.width, "clusters": len(self.centroids)}

    def forward(self, x: Tensor) -> Tensor:
        """Squared distances from all centroids, (rows, clusters); infinite from those that are unused. x: points, (rows, width)."""
        squared = (x[:, None] - self.centroids).square().sum(-1)
        return squared.masked_fill(~self.used, torch.inf)

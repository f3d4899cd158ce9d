"""A forest of decision trees as tensors of one shape, so that it is saved, hashed and moved like any model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 1e-6  # probability of a class that no tree knows at a point, so that its logarithm is finite


class Forest(nn.Module):
    """Complete binary trees. Node h has the children 2h and 2h + 1, and the root is 1. A leaf above the last level sends all to its left.

    Args:
        width: inputs of a point.
        classes: how many there are.
        trees, depth: the shape; 0 trees are an untrained forest.
    """

    feature: nn.Parameter  # (trees, 2^depth) the input that a node asks for; whole numbers, which no gradient changes
    threshold: Tensor  # (trees, 2^depth) a point goes left where its input is at most the threshold
    leaves: Tensor  # (trees, 2^depth, classes) shares of the classes

    def __init__(self, width: int, classes: int, trees: int = 1, depth: int = 1) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.reshape(trees, depth)

    def reshape(self, trees: int, depth: int) -> None:
        """Become an untrained forest of another shape, on the same device."""
        device = self.threshold.device if "threshold" in self._buffers else None
        self.trees, self.depth, nodes = trees, depth, 2**depth
        self.feature = nn.Parameter(torch.zeros(trees, nodes, dtype=torch.int32, device=device), requires_grad=False)
        self.register_buffer("threshold", torch.full((trees, nodes), torch.inf, device=device))
        self.register_buffer("leaves", torch.full((trees, nodes, self.classes), 1 / self.classes, device=device))

    def reset_parameters(self) -> None:
        """Know nothing: every leaf gives all classes the same share."""
        self.reshape(self.trees, self.depth)

    @property
    def settings(self) -> dict[str, int]:
        """What builds a forest of this shape."""
        return {"width": self.width, "classes": self.classes, "trees": self.trees, "depth": self.depth}

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of the mean of the trees' shares, (rows, classes). x: points, (rows, width)."""
        tree = torch.arange(self.feature.shape[0], device=x.device)
        node = torch.ones(len(x), len(tree), dtype=torch.long, device=x.device)
        for _ in range(self.depth):
            right = x.gather(1, self.feature[tree, node].long()) > self.threshold[tree, node]
            node = 2 * node + right
        shares = self.leaves[tree, node - 2**self.depth].mean(1)
        return shares.clamp_min(LEAST).log()

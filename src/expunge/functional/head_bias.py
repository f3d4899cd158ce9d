"""A bias of a model's output layer, trained alone: its gradient in closed form.

Source: Beyond Data Filtering: Knowledge Localization for Capability Removal in LLMs, 2025, arXiv 2512.05648, the calibrated loss
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, bias: Tensor) -> Tensor:
    """Mean negative log-likelihood with a bias, in nats.

    Args:
        logits: without the bias, (labels, classes).
        labels: the right classes, (labels,).
        bias: (classes,).
    """
    return torch.nn.functional.cross_entropy(logits + bias, labels)


def bias_gradient(logits: Tensor, labels: Tensor, bias: Tensor) -> Tensor:
    """The gradient of `cross_entropy` with respect to the bias: mean probability less share of the labels, (classes,)."""
    shares = torch.bincount(labels, minlength=logits.shape[-1]).to(logits) / max(1, len(labels))
    return (logits + bias).softmax(-1).mean(0) - shares

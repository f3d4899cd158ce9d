"""Diagonal of the Fisher information: the squared gradients of single rows, averaged over a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows
from expunge.engine.estimators.per_example_grads import Ask, row_gradients


def squared_gradients(
    model: nn.Module, ask: Ask, rows: Rows, losses: Callable[[ModelOutput], Iterable[Tensor]], batch_size: int = 32
) -> list[Tensor]:
    """Average over rows the squared gradient of each row, summed over its losses. Memory does not grow with the number of rows.

    With `likelihoods` as losses the result is the diagonal of the Fisher information.

    Args:
        ask: runs the model on rows.
        losses: maps an output to losses of shape (rows,); each loss counts on its own.

    Returns:
        One tensor for each trainable parameter, of its shape.
    """
    totals = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]

    def add(grads: list[Tensor]) -> None:
        for total, grad in zip(totals, grads, strict=True):
            total += grad.square().sum(0)

    row_gradients(model, ask, rows, losses, add, batch_size)
    return [total / len(rows) for total in totals]


def likelihoods(output: ModelOutput, draws: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield log-likelihoods of shape (rows,), in nats, whose squared gradients add up to the Fisher information of each row.

    Args:
        draws: None takes the labels of the rows (the empirical Fisher). A number n takes labels drawn n times from the model's own
            distribution. 0 takes every class, weighted by the root of its probability, which is the exact expectation; rows with
            several labels then have their labels drawn once.
    """
    if draws is None:
        yield -output.loss.sum()
        return
    log_probs = output.log_probs
    if draws == 0 and log_probs.lengths.max() == 1:
        for y in range(log_probs.values.shape[-1]):
            class_logp = log_probs.map(lambda v, y=y: v[:, y]).sum()  # type: ignore[misc]
            yield (class_logp.detach() / 2).exp() * class_logp
    else:
        for _ in range(draws or 1):
            labels = torch.multinomial(log_probs.values.detach().exp().cpu(), 1, generator=generator).to(log_probs.values.device)
            yield log_probs.map(lambda v, labels=labels: v.gather(1, labels)[:, 0]).sum() / (draws or 1) ** 0.5  # type: ignore[misc]

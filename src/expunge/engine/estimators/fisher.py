"""Diagonal of the Fisher information: squared gradients of single rows, averaged over whole sets."""

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
    """Mean over rows of the squared gradient of each row alone, summed over the losses of its answer; memory does not grow with the rows.

    losses: answer -> losses, each (rows,) and on its own. With `likelihoods` it is the diagonal of the Fisher information.
    """
    total = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]

    def add(grads: list[Tensor]) -> None:
        for t, g in zip(total, grads, strict=True):
            t += g.square().sum(0)

    row_gradients(model, ask, rows, losses, add, batch_size)
    return [t / len(rows) for t in total]


def likelihoods(answer: ModelOutput, draws: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Log-likelihoods of rows, each (rows,), whose squared gradients add up to the Fisher information of each row.

    draws: None: of the given labels. n: of labels that are drawn n times from the model's own distribution. 0: of every class, weighted
    by the root of its probability, which is the exact expectation; where a row has several labels they are drawn once.
    """
    if draws is None:
        yield -answer.loss.sum()
        return
    log = answer.log_probs
    if draws == 0 and log.lengths.max() == 1:
        for y in range(log.values.shape[-1]):
            one = log.map(lambda v, y=y: v[:, y]).sum()  # type: ignore[misc]
            yield (one.detach() / 2).exp() * one
    else:
        for _ in range(draws or 1):
            said = torch.multinomial(log.values.detach().exp().cpu(), 1, generator=generator).to(log.values.device)
            yield log.map(lambda v, said=said: v.gather(1, said)[:, 0]).sum() / (draws or 1) ** 0.5  # type: ignore[misc]

"""Cached losses of the reference model, which replace a second model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UndeclaredNeed
from expunge.core.modality import Weights
from expunge.core.rows import Packed, Rows, Sets
from expunge.engine.run_state import RunState, device_of, evaluating
from expunge.functional.brief import brief


@brief("losses")
@dataclass
class CachedReference:
    """The reference model's losses at the counted positions of each row. Most methods need nothing else of the reference."""

    losses: list[Tensor]  # for each row, (positions,) in nats

    @property
    def loss(self) -> Packed:
        lengths = torch.tensor([len(losses) for losses in self.losses])
        row = torch.arange(len(lengths)).repeat_interleave(lengths)
        values = torch.cat(self.losses)
        return Packed(values, row.to(values.device), len(lengths))

    @property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)

    def __getattr__(self, name: str) -> Any:
        raise UndeclaredNeed(f"the run keeps only the losses of the reference; declare Need.REFERENCE to ask for {name!r}")


def cache_reference(
    run: RunState, sets: Sets, names: frozenset[str], weights: Weights | None = None, batch_size: int = 32
) -> dict[str, Tensor]:
    """Evaluate the reference model once per row, so that the run needs no second model.

    Args:
        names: names of the sets to evaluate.
        weights: the reference's weights; default: those of the model now.
        batch_size: rows in one forward pass.

    Returns:
        By "set/id", the losses of each row, (positions,).
    """
    losses: dict[str, Tensor] = {}
    with evaluating(run.model), torch.no_grad():
        for name in sorted(names & sets.keys()):
            rows = sets[name]
            order = sorted(range(len(rows)), key=lambda i: -run.modality.counts(rows.select([i]))["tokens"])
            pieces = [order[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            own_losses: dict[str, Tensor] = {}
            for k in run.process_group.deal(len(pieces), together=run.sharded is not None):
                batch: Rows = rows.select(pieces[k])
                loss = run.forward([batch], (), None, weights, why="remember")[0].loss
                own_losses.update(zip([f"{name}/{i}" for i in batch.ids], loss.split(), strict=True))
            for exchanged in run.process_group.exchange(own_losses):
                losses.update({n: t.to(device_of(run.model)) for n, t in exchanged.items()})
    return losses

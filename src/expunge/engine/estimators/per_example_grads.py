"""Gradients of the single rows of a batch, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from expunge.engine.estimators.layers import Use, Watched, transposed


@dataclass
class ByRow(Watched):
    """The gradients by parameter, once a backward pass is over."""

    wanted: frozenset[int] = frozenset()  # ids of the parameters that are asked for
    grads: dict[int, Tensor] = field(default_factory=dict)  # by id of the parameter, (rows, *shape)

    def taken(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Of these parameters, each (rows, *shape), 0 where nothing came back; the next backward pass begins anew."""
        found = [g if (g := self.grads.get(id(p))) is not None else p.new_zeros(self.rows, *p.shape) for p in params]
        self.grads.clear()
        return found

    def _table(self, use: Use, back: Tensor) -> None:
        weight = use.own["weight"]
        if id(weight) not in self.wanted:
            return
        ids = use.given.reshape(self.rows, -1) + len(weight) * torch.arange(self.rows, device=back.device)[:, None]
        grad = back.new_zeros(self.rows * len(weight), weight.shape[1])
        grad.index_add_(0, ids.flatten(), (back * self._moves(use)[:, :, None]).flatten(0, 1))
        self._add(weight, grad.view(self.rows, *weight.shape))

    def _linear(self, use: Use, back: Tensor) -> None:
        x, g = self._padded(use.given), self._padded(back)
        if id(use.own["weight"]) in self.wanted:
            self._add(use.own["weight"], x.mT @ g if transposed(use.module) else g.mT @ x)
        if (bias := use.own.get("bias")) is not None:
            self._add(bias, g.sum(1))

    def _padded(self, x: Tensor) -> Tensor:
        """(rows, positions, width), 0 behind the last position of a row."""
        found = self._by_row(x)
        return found if isinstance(found, Tensor) else pad_sequence(list(found), batch_first=True)

    def _small(self, use: Use, grads: dict[str, Tensor]) -> None:
        for name, grad in grads.items():
            self._add(use.own[name], grad)

    def _add(self, parameter: Tensor, grads: Tensor) -> None:
        known = self.grads.get(id(parameter))
        self.grads[id(parameter)] = grads if known is None else known + grads

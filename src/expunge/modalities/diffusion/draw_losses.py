"""What a model answers that says the loss of each draw and nothing else that could be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.errors import UndeclaredNeed
from expunge.core.modality import ModelOutput
from expunge.core.rows import Packed, Rows
from expunge.functional.brief import brief


@brief("rows", "losses")
@dataclass
class DrawLosses:
    """The output of a model for some rows. A row has a position for each of its draws."""

    losses: Tensor  # (draws,)
    row: Tensor  # (draws,)
    rows: int
    hooked: Mapping[str, tuple[Tensor, Tensor]]  # module -> (input, output), each (draws, width)

    @property
    def loss(self) -> Packed:
        """The loss of each draw, (draws,)."""
        return Packed(self.losses, self.row, self.rows)

    def hidden(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 1)

    def input(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 0)

    def _hooked(self, hook_point: str, side: int) -> Packed:
        if hook_point not in self.hooked:
            raise UndeclaredNeed(f"the module {hook_point!r} was not declared in `hook_points`")
        return Packed(self.hooked[hook_point][side], self.row, self.rows, "tokens")


def split(losses: Tensor, hooked: Mapping[str, tuple[Tensor, Tensor]], groups: Sequence[Rows]) -> list[ModelOutput]:
    """The output of each group.

    Args:
        losses: of all draws, (draws,).
        hooked: input and output of modules, each (draws, width).
        groups: rows, whose column `times` has an entry for each draw.
    """
    outputs: list[ModelOutput] = []
    first = 0
    for group in groups:
        row = torch.arange(len(group)).repeat_interleave(torch.tensor([len(t) for t in group["times"]], dtype=torch.long))
        part = slice(first, first + len(row))
        states = {n: (i[part], o[part]) for n, (i, o) in hooked.items()}
        output: object = DrawLosses(losses[part], row.to(losses.device), len(group), states)
        outputs.append(output)  # type: ignore[arg-type]
        first = part.stop
    return outputs

"""Several processes on one run: each answers its share of every batch, and all of them take the same step.

What is dealt out are the pieces that accumulation cuts a batch into, so the gradient is that of one process, whatever an objective makes of
its means. All else, parts, selectors and the optimizer, runs in every process alike, from the same seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from expunge.core.errors import UserError

T = TypeVar("T")


def processes() -> Accelerator:
    """Those that a launcher started, or this one alone. On CPUs several are looked for only where that is asked for."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(cpu=True) if several and not torch.accelerator.is_available() else Accelerator()


class ProcessGroup:
    """The processes of a run, seen from one of them. One process is the usual case: nothing is sent then."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        accelerator = accelerator or processes()
        self.count: int = accelerator.num_processes
        self.index: int = accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    def deals(self, pieces: int, together: bool = False) -> bool:
        """Whether pieces are dealt out, else every process does them all. together: all must do as many, so they must come out even."""
        return self.count > 1 and not (together and pieces % self.count)

    def deal(self, pieces: int, together: bool = False) -> range:
        """Which of so many pieces are this process's."""
        return range(self.index, pieces, self.count) if self.deals(pieces, together) else range(pieces)

    def exchange(self, mine: T) -> list[T]:
        """What each process has, in their order; tensors come to the CPU."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, _to_cpu(mine))
        return found

    def agree(self, look: Callable[[], T]) -> T:
        """What the first process finds, for all of them; an error that the user can mend is raised in all of them."""
        if self.count == 1:
            return look()
        said: list[Any] = [None, ""]
        if self.first:
            try:
                said[0] = look()
            except UserError as error:
                said[1] = str(error)
        dist.broadcast_object_list(said, src=0)
        if said[1]:
            raise UserError(said[1])
        found: T = said[0]
        return found

    def any(self, *flags: bool) -> list[bool]:
        """Whether a flag is up in any process. It waits for all of them."""
        return [any(column) for column in zip(*self.exchange(flags), strict=True)]

    def sums(self, mine: Mapping[Any, Tensor], device: torch.device) -> dict[Any, Tensor]:
        """Sums by key of what the processes have."""
        total: dict[Any, Tensor] = {}
        for one in self.exchange(dict(mine)):
            for key, value in one.items():
                total[key] = total[key] + value.to(device) if key in total else value.to(device)
        return total

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Make of the gradients of pieces their sums over processes, in place; a sharded one is a mean over processes already."""
        whole = [g for g in gradients if not isinstance(g, DTensor)]
        for work in [dist.all_reduce(g, async_op=True) for g in whole]:
            work.wait()
        for g in gradients:
            if isinstance(g, DTensor):
                g.mul_(self.count)


def _to_cpu(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    if isinstance(x, dict):
        return {k: _to_cpu(v) for k, v in x.items()}
    return type(x)(_to_cpu(v) for v in x) if isinstance(x, (list, tuple)) else x

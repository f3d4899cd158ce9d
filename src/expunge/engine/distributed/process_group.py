"""Several processes on one run: each process computes its share of every batch, and all processes take the same optimizer step.

The processes share the pieces into which gradient accumulation splits a batch. The gradient therefore equals that of one process, whatever
averages an objective takes. Everything else (parts, selectors and the optimizer) runs identically in every process, from the same seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from expunge.core.errors import UserError

T = TypeVar("T")


def connect() -> PartialState:
    """Connect to the processes that a launcher started, or use this one alone. On CPUs, only WORLD_SIZE above 1 means several processes.

    accelerate keeps the first connection of a process, so nothing else may make one: without `cpu`, processes on CPUs stay alone.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=True) if several and not torch.accelerator.is_available() else PartialState()


def processes() -> Accelerator:
    """The accelerator of the connected processes."""
    state = connect()
    return Accelerator(cpu=True) if state.num_processes > 1 and state.device.type == "cpu" else Accelerator()


class ProcessGroup:
    """The processes of a run, as one of them sees the group. A single process, the usual case, sends nothing."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        accelerator = accelerator or processes()
        self.count: int = accelerator.num_processes
        self.index: int = accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.index == 0

    def deals(self, pieces: int, together: bool = False) -> bool:
        """Whether the processes share the pieces; otherwise every process computes all of them.

        Args:
            pieces: number of pieces.
            together: every process must compute the same number of pieces, so the pieces are shared only if they divide evenly.
        """
        return self.count > 1 and not (together and pieces % self.count)

    def deal(self, pieces: int, together: bool = False) -> range:
        """The indices of the pieces that this process computes; arguments as of `deals`."""
        return range(self.index, pieces, self.count) if self.deals(pieces, together) else range(pieces)

    def exchange(self, value: T) -> list[T]:
        """Gather a value from every process, in the order of the processes; tensors move to the CPU."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, _to_cpu(value))
        return values

    def agree(self, look: Callable[[], T]) -> T:
        """Run a function in the first process and return its result in all of them.

        Raises:
            UserError: in every process, when the function raises one.
        """
        if self.count == 1:
            return look()
        message: list[Any] = [None, ""]  # the result and the text of an error
        if self.first:
            try:
                message[0] = look()
            except UserError as error:
                message[1] = str(error)
        dist.broadcast_object_list(message, src=0)
        if message[1]:
            raise UserError(message[1])
        result: T = message[0]
        return result

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process. The call waits for all processes."""
        return [any(column) for column in zip(*self.exchange(flags), strict=True)]

    def sums(self, values: Mapping[Any, Tensor], device: torch.device) -> dict[Any, Tensor]:
        """Sum tensors over the processes, key by key."""
        totals: dict[Any, Tensor] = {}
        for process_values in self.exchange(dict(values)):
            for key, value in process_values.items():
                totals[key] = totals[key] + value.to(device) if key in totals else value.to(device)
        return totals

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Sum the gradients over processes, in place. A sharded gradient is already a mean over processes, so it is scaled instead."""
        unsharded = [g for g in gradients if not isinstance(g, DTensor)]
        for work in [dist.all_reduce(g, async_op=True) for g in unsharded]:
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

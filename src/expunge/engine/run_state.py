"""The loop's record of a run, through which every forward goes, and what a run's randomness and device are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Objective
from expunge.core.rows import Rows, Sets
from expunge.core.view import State
from expunge.engine.distributed.process_group import ProcessGroup
from expunge.engine.distributed.sharding import Sharded


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, module by module as it was afterwards."""
    was = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for m in was:
            m.training = True


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass
class Cost:
    """What a run has spent. Tokens are the modality's count of positions; a backward pass counts the positions of its forward."""

    seconds: float = 0.0
    forward_tokens: float = 0.0
    backward_tokens: float = 0.0
    steps: int = 0

    def flops(self, parameters: int) -> float:
        """The usual estimate: 2 a parameter and token forward, 4 backward."""
        return parameters * (2 * self.forward_tokens + 4 * self.backward_tokens)


class Engine(Protocol):
    """What the loop hands to the views of a run, so that parts can ask for gradients and for runs inside the run."""

    def evaluate(self, run: RunState, objective: Any, logical: Sets, *options: Any, **more: Any) -> tuple[Tensor, list[Tensor]]: ...
    def run(self, plans: Any, model: nn.Module, modality: Modality, sets: Sets, **more: Any) -> RunState: ...


@dataclass
class RunState:
    """The loop's record; parts never hold it."""

    model: nn.Module
    modality: Modality
    accelerator: Accelerator
    seed: int = 0
    engine: Any = None  # an `Engine`
    precision: str = "float32"
    objective: Objective | None = None
    sharded: Sharded | None = None  # where the model's blocks are spread over the processes
    picked: Sets = field(default_factory=dict)  # before the first stage, in the place of what the request brought
    sets: Sets = field(default_factory=dict)  # those of the epoch, whole
    stage: int = 0
    epoch: int = 0
    step: int = 0
    done: int = 0  # optimizer steps of the stage, and how many of them there will be, in how many epochs
    total: int = 0
    epochs: int = 0
    state: dict[str, State] = field(default_factory=dict)
    models: dict[str, Weights] = field(default_factory=dict)
    reference_loss: dict[str, Tensor] = field(default_factory=dict)  # "set/id" -> losses of its positions, by the reference
    memo: dict[Any, ModelOutput] = field(default_factory=dict)
    forwards: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    store: Mapping[str, Any] | None = None  # what a by-design method made
    shown: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # what parts saw, for the receipt and the report
    cost: Cost = field(default_factory=Cost)
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def process_group(self) -> ProcessGroup:
        """The processes that share the run."""
        return ProcessGroup(self.accelerator)

    def forward(
        self,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...],
        patch: Patch | None = None,
        weights: Weights | None = None,
        why: str = "now",
    ) -> list[ModelOutput]:
        """Every forward of a run goes through here: precision and cost are kept in one place."""
        self.forwards.append(why)
        tokens = sum(self.modality.counts(g)["tokens"] for g in groups)
        self.cost.forward_tokens += tokens
        self.cost.backward_tokens += tokens if torch.is_grad_enabled() else 0
        with torch.autocast(device_of(self.model).type, torch.bfloat16, enabled=self.precision == "bf16"):
            if weights and self.sharded:
                return self.modality.forward(self.sharded.under(weights), groups, hook_points, patch)
            return self.modality.forward(self.model, groups, hook_points, patch, weights)

    def alone(self, what: str) -> None:
        """Refuse what only a whole model can do. Errors: UserError."""
        if self.sharded:
            raise UserError(f"this method asks for {what}, which a sharded model cannot give: use several processes without FSDP, or one")

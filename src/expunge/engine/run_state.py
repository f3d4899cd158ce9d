"""The state of a run. Every forward pass of a run goes through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from expunge.functional.brief import brief


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block. Afterwards each module has the mode that it had before."""
    in_training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for m in in_training:
            m.training = True


@contextmanager
def training_alike(model: nn.Module, seed: int) -> Iterator[None]:
    """Training mode inside the block: batch statistics and dropout, drawn from a seed. Modes and buffers are the old ones afterwards."""
    modes, buffers, device = {m: m.training for m in model.modules()}, [b.clone() for b in model.buffers()], device_of(model)
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_draws(seed, device)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for b, old in zip(model.buffers(), buffers, strict=True):
                b.copy_(old)


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter."""
    return next(model.parameters()).device


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what a model on a device draws, as `torch.manual_seed` does.

    Where no GPU is in use, `torch.manual_seed` keeps the seed for one with a trace of the stack, which takes a tenth of a small step.
    """
    if device.type == "cpu" and not torch.cuda.is_initialized():
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@dataclass
class Cost:
    """The cost of a run. Tokens are the modality's count of positions; a backward pass counts the positions of its forward pass."""

    seconds: float = 0.0
    forward_tokens: float = 0.0
    backward_tokens: float = 0.0
    steps: int = 0

    def flops(self, parameters: int) -> float:
        """The usual estimate of FLOPs: per parameter and token, 2 forward and 4 backward."""
        return parameters * (2 * self.forward_tokens + 4 * self.backward_tokens)


Progress = Callable[[int, int, str], None]  # steps done, steps in all, what is being done


class Engine(Protocol):
    """The functions of the loop that views need: gradient evaluations, and runs inside a run."""

    def evaluate(self, run: RunState, objective: Any, logical: Sets, *args: Any, **options: Any) -> tuple[Tensor, list[Tensor]]: ...
    def run(
        self, plans: Any, model: nn.Module, modality: Modality, sets: Sets, progress: Progress | None = None, **options: Any
    ) -> RunState: ...


@brief("seed", "stage", "epoch", "done", "total", "warnings")
@dataclass
class RunState:
    """The state of a run, which the loop changes. Parts see only views of it."""

    model: nn.Module
    modality: Modality
    accelerator: Accelerator
    seed: int = 0
    engine: Any = None  # an `Engine`
    precision: str = "float32"
    objective: Objective | None = None
    sharded: Sharded | None = None  # set if the model's blocks are spread over the processes
    picked: Sets = field(default_factory=dict)  # sets picked before the first stage, which replace those of the request
    sets: Sets = field(default_factory=dict)  # the whole sets of the epoch
    stage: int = 0
    epoch: int = 0
    step: int = 0
    done: int = 0  # optimizer steps of the stage so far
    total: int = 0  # optimizer steps of the stage in all, if nothing stops it
    epochs: int = 0  # epochs of the stage in all, if nothing stops it
    state: dict[str, State] = field(default_factory=dict)
    models: dict[str, Weights] = field(default_factory=dict)
    reference_loss: dict[str, Tensor] = field(default_factory=dict)  # "set/id" -> (positions,) the row's losses under the reference model
    memo: dict[Any, ModelOutput] = field(default_factory=dict)
    forwards: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    store: Mapping[str, Any] | None = None  # the store of a by-design method
    finished: dict[str, Any] = field(default_factory=dict)  # ends of the runs inside a by-design method, which a resumed run takes over
    keep: Callable[[str, Any], None] | None = None  # of a by-design method: keeps the end of a run inside it
    progress: Progress | None = None  # of an action without steps of its own: told of those of runs inside it
    shown: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # results of parts by name, for the receipt and the report
    cost: Cost = field(default_factory=Cost)
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def process_group(self) -> ProcessGroup:
        """The processes that share the run."""
        return ProcessGroup(self.accelerator)

    def inner(self, plans: Any, model: nn.Module, modality: Modality, sets: Sets, key: str, seed: int) -> RunState:
        """A run inside this one, on the same devices. Whoever is told of its steps knows it by its key."""
        progress = self.progress
        steps: Progress | None = None if progress is None else lambda done, total, stage: progress(done, total, key or stage)
        inner: RunState = self.engine.run(plans, model, modality, sets, steps, seed=seed, accelerator=self.accelerator)
        self.cost.forward_tokens += inner.cost.forward_tokens
        self.cost.backward_tokens += inner.cost.backward_tokens
        self.cost.steps += inner.cost.steps
        self.warnings += [text for text in inner.warnings if text not in self.warnings]
        return inner

    def forward(
        self,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...],
        patch: Patch | None = None,
        weights: Weights | None = None,
        why: str = "now",
    ) -> list[ModelOutput]:
        """Run the model on groups of rows. Every forward pass of a run goes through here, so that precision and cost are handled once.

        Args:
            weights: weights by name that replace the model's own in this pass.
            why: label of the pass in `forwards`.

        Returns:
            One output for each group.
        """
        self.forwards.append(why)
        tokens = sum(self.modality.counts(g)["tokens"] for g in groups)
        self.cost.forward_tokens += tokens
        self.cost.backward_tokens += tokens if torch.is_grad_enabled() else 0
        with self.autocast():
            if weights and self.sharded:
                return self.modality.forward(self.sharded.under(weights), groups, hook_points, patch)
            return self.modality.forward(self.model, groups, hook_points, patch, weights)

    def autocast(self) -> torch.autocast:
        """The precision of the stage, for a block with forward passes."""
        return torch.autocast(device_of(self.model).type, torch.bfloat16, enabled=self.precision == "bf16")

    def alone(self, operation: str) -> None:
        """Refuse an operation that needs the whole model in one process.

        Raises:
            UserError: if the model is sharded.
        """
        if self.sharded:
            raise UserError(
                f"this method asks for {operation}, which a sharded model cannot give: use several processes without FSDP, or one"
            )

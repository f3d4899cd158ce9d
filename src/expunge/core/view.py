"""What a part sees of a run: `View` (whole sets, no gradient) and `Step` (one micro-batch of one gradient evaluation).

These are protocols; `expunge.engine.context` implements them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.rows import Packed, Rows, Sets

State = Mapping[str, Tensor]


class Declares(Protocol):
    """What a view is cut to: everything that a part declares."""

    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def requires(self) -> frozenset[Any]: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def hook_points(self) -> tuple[str, ...]: ...


class HasTerms(Protocol):
    """An objective, as far as a gradient over whole sets needs it."""

    def terms(self) -> tuple[Any, ...]: ...


class View(Protocol):
    """Whole sets, evaluation mode, no gradient; cut to the declarations of the part that looks."""

    sets: Sets
    place: str

    @property
    def model(self) -> nn.Module: ...
    @property
    def modality(self) -> Modality: ...
    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...  # that this stage will have, unless something stops it
    @property
    def done(self) -> int: ...  # optimizer steps of this stage so far; in `after`, with the one that was just made
    @property
    def total(self) -> int: ...  # optimizer steps that this stage will have, if all epochs are as long as the first
    @property
    def state(self) -> State: ...
    @property
    def params(self) -> list[Tensor]: ...  # the parameters that move, in the order of every list of gradients
    @property
    def forget(self) -> Rows: ...
    @property
    def retain(self) -> Rows: ...
    def at(self, name: str, part: Declares) -> Self: ...  # the same view, as a part inside this one sees it
    def rows(self, name: str) -> Rows: ...  # raises UndeclaredNeed unless this very part reads the set
    def whole_set(self, name: str) -> Rows: ...  # of the epoch, where a step shows only its batch of it
    def batches(self, name: str, size: int) -> Iterator[Rows]: ...
    def warn(self, text: str) -> None: ...  # a sentence among the warnings of the run
    def show(self, name: str, records: Sequence[Mapping[str, float]]) -> None: ...  # results for receipt and report
    def rng(self) -> torch.Generator: ...  # a function of seed, stage, epoch, step and place
    def now(self, rows: Rows, patch: Patch | None = None) -> ModelOutput: ...
    def look(self, rows: Rows, patch: Patch | None = None) -> ModelOutput: ...  # the same without a gradient, in a step too
    def under(self, weights: Weights, rows: Rows) -> ModelOutput: ...  # with other weights, those of a teacher in a part's state
    def other(self, stage: str) -> Callable[[Rows], ModelOutput]: ...  # with the weights that an earlier stage left
    def reference(self, rows: Rows) -> ModelOutput: ...  # cached numbers or live, as declared
    def generate(self, rows: Rows, limit: int, sample: bool = False, temperature: float = 1.0, with_logp: bool = False) -> Any: ...
    def grad(
        self, what: HasTerms | str, sets: Sets | None = None, batch_size: int = 32, vector: list[Tensor] | None = None
    ) -> list[Tensor]: ...
    def example_grads(self, rows: Rows, loss: Callable[[ModelOutput], Tensor], batch_size: int = 32) -> Iterator[list[Tensor]]: ...
    def fisher(self, rows: Rows, draws: int | None = 0, batch_size: int = 32) -> list[Tensor]: ...
    def kfac(self, rows: Rows, strategy: Any = "ekfac", draws: int = 1, batch_size: int = 32) -> dict[str, Tensor]: ...
    def input_grad(self, x: Tensor, rows: Callable[[Tensor], Rows], loss: Callable[[ModelOutput], Tensor]) -> Tensor: ...
    def run(self, plan: Any, sets: Sets, start: Weights | None = None, key: str = "") -> View: ...  # on a copy, with a seed of its own


class Step(View, Protocol):
    """One micro-batch inside one gradient evaluation: parts share its outputs, then they are dropped."""

    batch: Sets

    def mean(self, x: Tensor | Packed, rows: Rows) -> Tensor: ...  # over the logical batch: all micro-batches and processes, row weights
    def count(self, rows: Rows, kind: str = "labels") -> float: ...  # rows, labels or tokens of this set in the logical batch
    def note(self, **means: Tensor) -> None: ...  # keep means for `after`, which sees those of the step's first evaluation
    def noted(self, name: str) -> Tensor: ...

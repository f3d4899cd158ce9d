"""The interfaces of a run for its parts: `View` (whole sets, no gradient) and `Step` (one micro-batch); see `expunge.engine.context`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Generator, Tensor, nn

from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.rows import Packed, Rows, Sets

State = Mapping[str, Tensor]
Loss = Callable[[ModelOutput], Tensor]  # of an output; `training` of `input_grad` is a seed, for training mode


class View(Protocol):
    """Whole sets, evaluation mode, no gradient; restricted to the declarations of the part."""

    sets: Sets
    place: str

    @property
    def model(self) -> nn.Module: ...
    @property
    def modality(self) -> Modality: ...
    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...  # number of epochs of this stage, unless something stops it
    @property
    def done(self) -> int: ...  # optimizer steps of this stage so far; in `after`, the current one included
    @property
    def total(self) -> int: ...  # optimizer steps of this stage in all, if all epochs are as long as the first
    @property
    def state(self) -> State: ...
    @property
    def params(self) -> list[Tensor]: ...  # the trainable parameters, in the order of every list of gradients
    @property
    def forget(self) -> Rows: ...
    @property
    def retain(self) -> Rows: ...
    def at(self, name: str, part: Any) -> Self: ...  # the same view for a part inside this one, cut to what that part declares
    def rows(self, name: str) -> Rows: ...  # raises UndeclaredNeed unless this part declares the set
    def whole_set(self, name: str) -> Rows: ...  # the epoch's set, of which a step shows only its batch
    def batches(self, name: str, size: int) -> Iterator[Rows]: ...
    def warn(self, text: str) -> None: ...  # add a sentence to the warnings of the run
    def show(self, name: str, records: Sequence[Mapping[str, float]]) -> None: ...  # add results to the receipt and the report
    def rng(self) -> Generator: ...  # seeded by seed, stage, epoch, step and place
    def now(self, rows: Rows, patch: Patch | None = None) -> ModelOutput: ...
    def look(self, rows: Rows, patch: Patch | None = None) -> ModelOutput: ...  # without a gradient, also within a step
    def under(self, weights: Weights, rows: Rows) -> ModelOutput: ...  # with other weights, such as a teacher's in a part's state
    def other(self, stage: str) -> Callable[[Rows], ModelOutput]: ...  # with the final weights of an earlier stage
    def reference(self, rows: Rows) -> ModelOutput: ...  # cached losses or a live evaluation, as declared
    def generate(self, rows: Rows, limit: int, sample: bool = False, temperature: float = 1.0, with_logp: bool = False) -> Any: ...
    def sample(self, captions: Sequence[str], seeds: Sequence[int], reference: bool = False, **how: Any) -> tuple[Tensor, Tensor]: ...
    def grad(self, target: Any, sets: Sets | None = None, batch_size: int = 32, vector: list[Tensor] | None = None) -> list[Tensor]: ...
    def example_grads(self, rows: Rows, loss: Loss, batch_size: int = 32) -> Iterator[list[Tensor]]: ...
    def fisher(self, rows: Rows, draws: int | None = 0, batch_size: int = 32) -> list[Tensor]: ...
    def kfac(self, rows: Rows, strategy: Any = "ekfac", draws: int = 1, batch_size: int = 32) -> dict[str, Tensor]: ...
    def input_grad(self, x: Tensor, rows: Callable[[Tensor], Rows], loss: Loss, training: int | None = None) -> Tensor: ...
    def run(self, plan: Any, sets: Sets, start: Weights | None = None, key: str = "", model: Any = None, alone: bool = False) -> View: ...


class Step(View, Protocol):
    """One micro-batch of one gradient evaluation. Parts share its outputs, which are dropped afterwards."""

    batch: Sets

    def mean(self, x: Tensor | Packed, rows: Rows) -> Tensor: ...  # over the logical batch: all micro-batches and processes, weighted
    def count(self, rows: Rows, kind: str = "labels") -> float: ...  # rows, labels or tokens of this set in the logical batch
    def note(self, **means: Tensor) -> None: ...  # keep means for `after`, which gets those of the step's first evaluation
    def noted(self, name: str) -> Tensor: ...

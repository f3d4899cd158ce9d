"""The modality: everything that depends on what a row is. Parts speak to it and to nothing behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from expunge.core.rows import Packed, Rows

Weights = dict[str, Tensor]


class ModelOutput(Protocol):
    """What a model computes for some rows; shapes depend on these rows alone.

    Every modality gives `loss` and what hook points saw. The others come with the capability `Categorical`.
    """

    @property
    def loss(self) -> Packed: ...  # loss of each position that counts; of labels their negative log-probability
    @property
    def target_logp(self) -> Packed: ...  # log-probability of each label, in nats
    @property
    def logits(self) -> Packed: ...  # (labels, classes), before the softmax
    @property
    def log_probs(self) -> Packed: ...  # (labels, classes), after it
    @property
    def labels(self) -> Tensor: ...  # (labels,) the true class at each label position
    def hidden(self, hook_point: str, answers: bool = False) -> Packed: ...  # output of a module, at all tokens or at the answer's own
    def input(self, hook_point: str, answers: bool = False) -> Packed: ...  # its input


class Patch(Protocol):
    """A hashable change of the forward pass (units switched off, say); part of the key under which outputs are shared."""

    def on(self, model: nn.Module) -> AbstractContextManager[Any]: ...
    def __hash__(self) -> int: ...


class Modality(Protocol):
    """What every kind of model has. What only some kinds can do is a capability: see `expunge.core.capabilities`."""

    name: str  # chooses the profile of an audit and a loader; no other code compares it
    capabilities: frozenset[Any]  # protocols of `expunge.core.capabilities`

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Records as rows of a set. Raises: UserError that names the row."""

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """The output for each group, from one forward pass over all of them."""

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """Number of rows, labels and tokens: denominators that are known without a forward pass."""

    def independent(self, model: nn.Module) -> bool:
        """False where rows of one forward pass influence each other (batch norm in training)."""

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Hook points of the model's blocks, first to last."""

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        """The module that a hook point names. Raises: UserError."""

    def head(self, model: nn.Module) -> str:
        """Path of the last linear layer: its input is the model's representation of a row. Raises: UserError where there is none."""

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        """The weights of an untrained model of the same shape. Raises: UserError where a module does not say how it begins."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model so that its loader reads it again."""

    def about(self) -> dict[str, Any]:
        """Everything between a record and the model that a number depends on, for receipts and cache keys."""

"""The modality: everything that depends on the kind of data. Parts use this interface and nothing behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from expunge.core.rows import Packed, Rows

Weights = dict[str, Tensor]
Paths = tuple[str, ...]


class ModelOutput(Protocol):
    """The output of a model for some rows. Shapes depend on these rows alone.

    Every modality provides `loss`, `hidden` and `input`. The other fields come with the capability `Categorical`.
    """

    @property
    def loss(self) -> Packed: ...  # loss at each counted position; for labels the negative log-probability, in nats
    @property
    def target_logp(self) -> Packed: ...  # log-probability of each label, in nats
    @property
    def logits(self) -> Packed: ...  # (labels, classes), before softmax
    @property
    def log_probs(self) -> Packed: ...  # (labels, classes), log-softmax of the logits
    @property
    def labels(self) -> Tensor: ...  # (labels,) the true class at each label position
    def hidden(self, hook_point: str, answers: bool = False) -> Packed: ...  # output of a module, at all tokens or the answer's only
    def input(self, hook_point: str, answers: bool = False) -> Packed: ...  # input of a module, likewise


class Patch(Protocol):
    """A hashable change of the forward pass, such as ablated units. It is part of the key under which parts share outputs."""

    def on(self, model: nn.Module) -> AbstractContextManager[Any]: ...
    def __hash__(self) -> int: ...


class Modality(Protocol):
    """What every kind of model provides. What only some kinds provide is a capability: see `expunge.core.capabilities`."""

    name: str  # selects the audit profile and the loader; no other code compares it
    capabilities: frozenset[Any]  # protocols of `expunge.core.capabilities`

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records to rows of a set. Raises: UserError that names the faulty row."""

    def forward(
        self, model: nn.Module, groups: Sequence[Rows], hook_points: Paths = (), patch: Patch | None = None, weights: Weights | None = None
    ) -> list[ModelOutput]:
        """The output for each group, from one forward pass over all of them."""

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """Number of rows, labels and tokens: the denominators of means, known without a forward pass."""

    def independent(self, model: nn.Module) -> bool:
        """False if rows of one forward pass influence each other (batch norm in training)."""

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Hook points of the model's blocks, first to last."""

    def module(self, model: nn.Module, hook_point: str) -> nn.Module:
        """The module that a hook point names. Raises: UserError if there is none."""

    def head(self, model: nn.Module) -> str:
        """Path of the last linear layer: its input is the model's representation of a row. Raises: UserError if there is none."""

    def fresh(self, model: nn.Module, seed: int) -> Weights:
        """The weights of an untrained model of the same shape. Raises: UserError if a module does not define its initialization."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model in the format that its loader reads."""

    def about(self) -> dict[str, Any]:
        """All settings of the data pipeline that results depend on, for receipts and cache keys."""

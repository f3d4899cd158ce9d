"""What some modalities can do and others cannot. A part names what it `requires`; code asks for a capability, never for a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Packed, Rows


class Categorical(Modality, Protocol):
    """Rows have labels out of classes: outputs have `target_logp`, `logits`, `log_probs` and `labels`."""

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows: ...  # the same rows with other labels
    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows: ...  # answers by themselves, one a row
    def refusals(self) -> list[str]: ...  # ways to say that one does not know, where the request brings none
    def ended(self, rows: Rows) -> list[bool]: ...  # whether the last label only ends the answer


@dataclass(frozen=True)
class Samples:
    """What a model generated for some rows."""

    ids: list[list[int]]  # of each row, the tokens of its answer; the token that ends it is left out
    ended: list[bool] = field(default_factory=list)  # whether the model ended the answer by itself, before the limit
    logp: Packed | None = None  # log-probability of each sampled token, the ending one included; None where it was not asked for

    def __len__(self) -> int:
        return len(self.ids)


class Generates(Categorical, Protocol):
    """The model answers in its own words."""

    def generate(
        self,
        model: nn.Module,
        rows: Rows,
        limit: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        with_logp: bool = False,
    ) -> Samples: ...  # greedy without a generator; at most `limit` tokens a row
    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]: ...


class Prompted(Categorical, Protocol):
    """Rows ask in words."""

    def ask(self, rows: Rows, template: str) -> Rows: ...  # the same rows in a request of its own, with {question} and {answer}
    def reask(self, rows: Rows, questions: Sequence[str], name: str) -> Rows: ...  # the same answers to other questions
    def begun(self, rows: Rows, places: Sequence[int], name: str = "begun") -> Rows: ...  # answers that are given up to a place
    def unanswerable(self, answers: Sequence[str]) -> Rows: ...  # questions about what does not exist
    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None: ...  # make symbols tokens
    def places(self, model: nn.Module, symbols: Sequence[str]) -> list[tuple[Tensor, list[int]]]: ...  # matrices of tokens, with their rows


class SharedReading(Categorical, Protocol):
    """What answers of many rows have in common is read once."""

    def read(
        self, model: nn.Module, sets: Sequence[Rows], moments: Sequence[bool] = (), progress: Callable[[float], None] = lambda share: None
    ) -> Any: ...  # `.of(i, moments)` is what the model says of row i, over all sets; `.how` says in words how it was read


class Drafting(Generates, Protocol):
    """Greedy generation starts from what a reading already proved, token for token equal to `generate`."""

    def recite(
        self, model: nn.Module, sets: Sequence[Rows], limits: Sequence[int], reading: Any, heard: Sequence[Any]
    ) -> tuple[list[list[list[int]]], int]: ...


class DifferentiableInputs(Modality, Protocol):
    """The input of a row is numbers that can be moved."""

    def inputs(self, rows: Rows) -> Tensor: ...  # (rows, ...)
    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows: ...  # the same rows with other inputs; a gradient passes


class Ranks(Modality, Protocol):
    """The model scores items for a user."""

    def score_items(self, model: nn.Module, rows: Rows) -> Tensor: ...  # (users, items), one user a distinct user of the rows
    def ranks(self, model: nn.Module, rows: Rows) -> Tensor: ...  # (rows,) place of each row's item among all items, 0 the first


class Denoises(Modality, Protocol):
    """The loss of a row is how well noise is removed from it."""

    def denoise(self, model: nn.Module, rows: Rows, steps: int, generator: torch.Generator) -> Tensor: ...  # (rows, ...)


class Displayable(Modality, Protocol):
    """People can look at rows and answers."""

    def questions(self, rows: Rows) -> list[str]: ...
    def answer_texts(self, rows: Rows) -> list[str]: ...
    def pictures(self, rows: Rows) -> Tensor | None: ...  # (rows, channels, height, width), bytes; None where there is nothing to see


MEANING: dict[Any, str] = {
    Categorical: "rows with labels out of classes",
    Generates: "answers in the model's own words",
    Prompted: "rows that ask in words",
    DifferentiableInputs: "inputs that are numbers and can be moved",
    Ranks: "items that are ranked for users",
    Denoises: "inputs that noise is removed from",
    Displayable: "rows that people can look at",
}
C = TypeVar("C")


def offers(modality: Modality, capability: type) -> bool:
    """Whether a modality has a capability."""
    return capability in modality.capabilities


def require(modality: Modality, capability: type[C]) -> C:
    """The modality, as one that has a capability. Raises: UserError where it has not."""
    if capability not in modality.capabilities:
        raise UserError(f"this needs {MEANING.get(capability, capability.__name__)}, which the modality {modality.name!r} does not have")
    return cast(C, modality)

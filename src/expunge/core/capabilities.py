"""Capabilities: what only some modalities can do. A part declares what it `requires`; code checks capabilities, never names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from torch import Generator, Tensor, nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Packed, Rows

Rng = Generator | None
Progress = Callable[[float], None]  # receives the share that is done
Recited = tuple[list[list[list[int]]], int]  # by set and row the tokens, and forward passes


class Categorical(Modality, Protocol):
    """Rows have class labels: outputs have `target_logp`, `logits`, `log_probs` and `labels`."""

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows: ...  # the same rows with other labels
    def answers(self, texts: Sequence[Any], name: str = "alternate_answers") -> Rows: ...  # answers without questions, one per row
    def refusals(self) -> list[str]: ...  # default refusals, for a request without any
    def ended(self, rows: Rows) -> list[bool]: ...  # whether each row's last label is an end token


@dataclass(frozen=True)
class Samples:
    """The answers that a model generated for some rows."""

    ids: list[list[int]] = field(repr=False)  # tokens of each row's answer, without the end token
    ended: list[bool] = field(default_factory=list, repr=False)  # whether the model ended the answer before the token limit
    ends: list[int] = field(default_factory=list, repr=False)  # the token that ended each answer; -1: none did, or it is unknown
    logp: Packed | None = None  # log-probability of each sampled token, end token included; None unless requested


class Generates(Categorical, Protocol):
    """The model generates answers as text."""

    def generate(
        self, model: nn.Module, rows: Rows, limit: int, generator: Rng = None, temperature: float = 1.0, with_logp: bool = False
    ) -> Samples: ...  # greedy without a generator; at most `limit` tokens per row
    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]: ...


class Prompted(Categorical, Protocol):
    """Rows contain questions as text."""

    def ask(self, rows: Rows, template: str) -> Rows: ...  # the same rows in a template with {question} and {answer}
    def reask(self, rows: Rows, questions: Sequence[str], name: str) -> Rows: ...  # the same answers to other questions
    def begun(self, rows: Rows, places: Sequence[int], name: str = "begun") -> Rows: ...  # rows with answers prefilled up to a position
    def unanswerable(self, answers: Sequence[str]) -> Rows: ...  # questions about things that do not exist
    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None: ...  # add symbols to the vocabulary as tokens
    def places(self, model: nn.Module, symbols: Sequence[str]) -> list[tuple[Tensor, list[int]]]: ...  # token matrices, with symbol rows
    def formats(self) -> dict[str, Modality]: ...  # the same modality with other likely formats around a question, by format


class SharedReading(Categorical, Protocol):
    """The model reads a prefix that many rows share only once."""

    # `.of(i, moments)` of the reading is the output for row i, counted over all sets; `.how` describes the reading in words
    def read(
        self, model: nn.Module, sets: Sequence[Rows], moments: Sequence[bool] = (), progress: Progress = lambda share: None
    ) -> Any: ...


class Drafting(Generates, Protocol):
    """Greedy generation starts from the tokens that a reading already confirmed. The result equals that of `generate`, token for token."""

    def recite(self, model: nn.Module, sets: Sequence[Rows], limits: Sequence[int], reading: Any, heard: Sequence[Any]) -> Recited: ...


class OneSequence(Categorical, Protocol):
    """A row is one sequence in which the answer continues the prompt, so every block reads both."""


class DifferentiableInputs(Modality, Protocol):
    """The input of a row is a tensor that can be changed by a gradient."""

    def inputs(self, rows: Rows) -> Tensor: ...  # (rows, ...)
    def moved(self, rows: Rows, x: Tensor, normalized: bool = False) -> Rows: ...  # the same rows with other inputs; gradients flow through


class Ranks(Modality, Protocol):
    """The model scores items for a user."""

    def score_items(self, model: nn.Module, rows: Rows) -> Tensor: ...  # (users, items), one line for each distinct user of the rows
    def ranks(self, model: nn.Module, rows: Rows) -> Tensor: ...  # (rows,) rank of each row's item among all items; 0 is the best


class Redraws(Modality, Protocol):
    """A row's loss also depends on what is drawn for it, such as negative items or noise. Each training step draws it anew."""

    def redraw(self, rows: Rows, seed: int) -> Rows: ...  # the same rows; what is drawn for a row depends on the row and the seed alone


class Denoises(Redraws, Protocol):
    """The model makes pictures out of noise. Outputs have `prediction` and `target`: noise, velocity or picture, one for each draw."""

    def recaption(self, rows: Rows, captions: Sequence[str], name: str = "") -> Rows: ...  # the same draws; '' is the empty prompt
    def noised(self, rows: Rows) -> tuple[Tensor, Tensor]: ...  # noisy latents of all draws (draws, ...), and their times (draws,)
    def placed(self, rows: Rows, latents: Tensor, times: Tensor, states: Tensor | None = None) -> Rows: ...  # rows at given noisy latents
    def encode(self, model: nn.Module, captions: Sequence[str], prefix: Tensor | None = None) -> Tensor: ...  # what the denoiser reads
    def random_words(self, model: nn.Module, count: int, rng: Generator) -> Tensor: ...  # embeddings of drawn tokens, (count, width)
    def time_count(self) -> int: ...  # number of times of the process
    def content_tokens(self, captions: Sequence[str]) -> list[dict[int, int]]: ...  # by position, without start, end and padding
    def predict(self, model: nn.Module, latents: Tensor, times: Tensor, states: Tensor) -> Tensor: ...  # as `prediction`; with gradients
    def sample(
        self, model: nn.Module, captions: Sequence[str], seeds: Sequence[int], steps: int = 0, guidance: float = -1, until: int = -1
    ) -> tuple[Tensor, Tensor]: ...  # latents after `until` steps (-1: all), and the time index of each; 0 and -1: the model's own
    def drawn(self, latents: Tensor) -> Tensor: ...  # the pictures of clean latents, bytes (rows, channels, height, width)
    def cross_attention(self, model: nn.Module) -> list[str]: ...  # paths of the modules in which the denoiser reads the caption


class HoldsRows(Modality, Protocol):
    """The model holds training rows beside its weights, such as the edges of a graph."""

    def add_rows(self, model: nn.Module, rows: Rows) -> None: ...  # hold these rows too
    def remove_rows(self, model: nn.Module, rows: Rows) -> list[str]: ...  # hold them no longer; sentences about what was removed
    def alone(self, rows: Rows) -> tuple[Modality, Rows]: ...  # the modality and the rows as if there were no others
    def spelled(self, name: str, records: Any) -> Any: ...  # records that stand for several held rows, as these rows


class LooksUp(Modality, Protocol):
    """Rows look up vectors in tables of weights, as of a user and of an item. Rows may share them; the most personal are first."""

    def lookups(self, model: nn.Module, rows: Rows) -> list[tuple[Tensor, tuple[str, ...]]]: ...  # places (rows,), names of tables


class Displayable(Modality, Protocol):
    """Rows and answers can be shown to people."""

    def questions(self, rows: Rows) -> list[str]: ...
    def answer_texts(self, rows: Rows) -> list[str]: ...
    def pictures(self, rows: Rows) -> Tensor | None: ...  # (rows, channels, height, width), bytes; None without pictures


MEANING: dict[Any, str] = {
    Categorical: "rows with labels out of classes",
    Generates: "answers in the model's own words",
    Prompted: "rows that ask in words",
    OneSequence: "answers that continue their prompts in one sequence, as no encoder-decoder writes them,",
    DifferentiableInputs: "inputs that are numbers and can be moved",
    Ranks: "items that are ranked for users",
    Denoises: "pictures that the model makes out of noise",
    LooksUp: "rows with vectors of their own in tables",
    Displayable: "rows that people can look at",
}
C = TypeVar("C")


def offers(modality: Modality, capability: type) -> bool:
    """Whether a modality has a capability."""
    return capability in modality.capabilities


def require(modality: Modality, capability: type[C]) -> C:
    """The modality, typed as one that has the capability. Raises: UserError if the modality lacks it."""
    if capability not in modality.capabilities:
        raise UserError(f"this needs {MEANING.get(capability, capability.__name__)}, which the modality {modality.name!r} does not have")
    return cast(C, modality)

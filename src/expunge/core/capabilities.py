"""Ports whose rows ask in words: what `Need.PROMPTS` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.core.parts import Modality, Need, Rows


class Prompts(Modality, Protocol):
    """A port that can ask otherwise, and give the model new words."""

    def ask(self, rows: Rows, template: str) -> Rows: ...  # the same rows in a request of its own, with {question} and {answer}
    def reask(self, rows: Rows, questions: Sequence[str], name: str) -> Rows: ...  # the same answers to other questions
    def begun(self, rows: Rows, places: Sequence[int], name: str = "begun") -> Rows: ...  # answers that are given up to a place
    def unanswerable(self, answers: Sequence[str]) -> Rows: ...  # questions about what does not exist
    def admit(self, model: nn.Module, symbols: Sequence[str], seed: int) -> None: ...  # make symbols tokens
    def places(self, model: nn.Module, symbols: Sequence[str]) -> list[tuple[Tensor, list[int]]]: ...  # matrices of tokens, with their rows


def prompts(port: Any) -> Prompts:
    """A port as one that asks in words. Errors: UserError where it does not."""
    if Need.PROMPTS not in port.offers:
        raise UserError(f"this needs rows that ask in words, which a model of the kind {port.name!r} cannot give")
    return cast(Prompts, port)

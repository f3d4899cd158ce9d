"""The capability of a modality whose tokenizer can be replaced, and rows that are encoded again after it was."""

from __future__ import annotations

from typing import Any, Protocol

from expunge.core.capabilities import MEANING, Categorical, require
from expunge.core.modality import Modality
from expunge.core.plan import Plans
from expunge.core.rows import Rows


class Retokenizes(Categorical, Protocol):
    """Rows are texts, which a tokenizer encodes. Rows that were encoded before it is replaced mean nothing to the model afterwards."""

    tokenizer: Any

    def retokenize(self, tokenizer: Any) -> None: ...  # encode rows with another tokenizer from now on
    def encode_again(self, rows: Rows) -> Rows: ...  # the same rows, with the same ids, as the tokenizer encodes them now


MEANING[Retokenizes] = "texts, which a tokenizer cuts into tokens,"


def changes_tokenizer(plans: Plans) -> bool:
    """Whether the plans may replace the tokenizer."""
    return any(Retokenizes in plan.required() for plan in plans)


def as_read_now(modality: Modality, rows: Rows | None) -> Rows | None:
    """Rows as a tokenizer that was replaced encodes them."""
    return require(modality, Retokenizes).encode_again(rows) if rows is not None and len(rows) else rows

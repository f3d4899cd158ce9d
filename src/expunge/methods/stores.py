"""What by-design methods share: which rows of a store a request means, and what forgetting from a store promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from expunge.core.capabilities import HoldsRows, offers, require
from expunge.core.errors import UserError
from expunge.core.request import content, contents
from expunge.core.rows import Rows
from expunge.core.view import View

Level = Literal["E0", "E1", "C", "B", "H"]
LEVELS: dict[Level, str] = {
    "E0": "bit-exact: the store and the model equal those made without the rows, bit for bit",
    "E1": "exact in distribution: the store and the model are distributed as if they had been made without the rows",
    "C": "certified: no test tells the model from one trained without the rows better than epsilon and delta allow",
    "B": "bounded: the weights are near those of retraining, and a test may still tell them apart",
    "H": "heuristic: nothing is promised; an audit measures what is still known",
}
ALWAYS = (  # what no method of this kind can undo
    "the rows shaped something before training: the starting model, a tokenizer (a built-in size has one from --vocabulary, or else from "
    "the rows), a list of classes, the categories of a table, a normalization, or settings chosen by results on them",
    "copies of the rows or of the store remain elsewhere",
)


def guarantee(level: Level, *void: str, **numbers: Any) -> dict[str, Any]:
    """What forgetting from a store promises, for the receipt.

    Args:
        level: E0 bit-exact, E1 exact in distribution, C certified, B bounded, H heuristic.
        void: what voids the promise, besides what always does.
        numbers: bounds and budgets.

    Returns:
        `level`, `meaning` and `void` in words, and `numbers`.
    """
    return {"level": level, "meaning": LEVELS[level], "void": [*void, *ALWAYS], **({"numbers": numbers} if numbers else {})}


def meant(rows: Rows, ids: frozenset[str]) -> list[bool]:
    """Which rows a request means: those with one of its ids or content hashes."""
    return [content(i) in ids or not ids.isdisjoint(keys) for i, keys in zip(rows.ids, contents(rows), strict=True)]


def alone(rows: Rows, view: View) -> Rows:
    """Rows without a trace of others, which some modalities leave in their columns."""
    return require(view.modality, HoldsRows).alone(rows)[1] if offers(view.modality, HoldsRows) and len(rows) else rows


def seed_in(view: View) -> int:
    """The seed of a by-design method in a run, which `--seed` sets; the same whenever its store is made and forgotten from."""
    return view.rng().initial_seed()


def in_order(rows: Rows) -> Rows:
    """The rows in the order of their ids: the order of a file says what else is in it."""
    return rows.select(sorted(range(len(rows)), key=lambda i: rows.ids[i]))


def check_width(x: Tensor, width: int) -> None:
    """Check that a store belongs to the model beside it.

    Args:
        x: the points in the store, (rows, inputs).
        width: inputs that the model reads.

    Raises:
        UserError: if it holds rows of other inputs.
    """
    if x.shape[1] != width:
        raise UserError(
            f"the store holds rows of {x.shape[1]} inputs, and the model beside it reads {width}: they are of different data, so make the "
            "store anew with expunge train"
        )


def warn_of_copies(leaving: Sequence[bool], view: View) -> None:
    """Say it where more rows leave a store than are to be forgotten: those that are equal in all that is read leave together."""
    if (copies := sum(leaving) - len(view.sets["forget"])) > 0:
        view.warn(
            f"{copies} more rows of the store leave with the {len(view.sets['forget'])} rows to forget, because they are equal to them"
        )


def check_known(stored: Sequence[Rows], view: View) -> None:
    """Compare the rows to forget with those of the store, and warn of those that it does not hold.

    Raises:
        UserError: if the store holds none of them.
    """
    known = {key for rows in stored for i, keys in zip(rows.ids, contents(rows), strict=True) for key in (content(i), *keys)}
    forget = view.sets["forget"]
    unknown = sum(content(i) not in known and known.isdisjoint(keys) for i, keys in zip(forget.ids, contents(forget), strict=True))
    if unknown == len(forget):
        raise UserError(
            f"none of the {len(forget)} rows to forget is in the store: it was made without them, or they were taken out before"
        )
    if unknown:
        view.warn(f"{unknown} of {len(forget)} rows to forget are not in the store, so nothing of them was removed")

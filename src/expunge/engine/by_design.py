"""A by-design method in a run: its store is made or forgotten from, and the model becomes what the store represents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from expunge.core.errors import UserError
from expunge.core.parts import ByDesign
from expunge.core.request import content, contents
from expunge.core.rows import Sets
from expunge.engine import committee
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState


def run(r: RunState, action: ByDesign, view: RunView, sets: Sets) -> None:
    """Make the store of a run, or remove the rows to forget from the one that it has. `r` gets the store, its model and its modality.

    Args:
        view: of the action.
        sets: of the stage.

    Raises:
        UserError: for a store that other code made.
    """
    if r.store is None:
        r.store = action.fit(view)
    else:
        rows = sets["forget"]
        keys = (key for i, of_row in zip(rows.ids, contents(rows), strict=True) for key in (content(i), *of_row))
        with _readable(r.store):
            r.store = action.forget(r.store, frozenset(keys), view)
    weights = action.weights(r.store, view)
    members = [dict(weights)] if isinstance(weights, Mapping) else weights
    r.model, r.modality = committee.seated(r.model, r.modality, members, r.store.get("answer", "mean"), r.store.get("shares", ()))


@contextmanager
def _readable(store: Mapping[str, Any]) -> Iterator[None]:
    """Say in a sentence that a store lacks what is read from it."""
    try:
        yield
    except KeyError as error:
        if error.args and isinstance(error.args[0], str) and error.args[0] not in store:
            raise UserError(
                f"the store has no entry {error.args[0]!r}, which this version reads: other code made it, so make it anew from the rows, "
                "with expunge train"
            ) from error
        raise

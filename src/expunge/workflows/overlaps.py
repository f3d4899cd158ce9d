"""Sets that share items: every pair is compared, by what the model reads and without the label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from expunge.core.capabilities import DifferentiableInputs, Displayable, Ranks, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import Request
from expunge.core.request import contents as contents_of
from expunge.core.rows import Rows

MOST = 0.5  # share of questions in common, with other answers, from which on it is said


class Overlap(NamedTuple):
    """Items that stand in two sets."""

    first: str
    second: str
    shared: int  # items of the second set that also stand in the first
    of: int  # items of the second set

    @property
    def usual(self) -> bool:
        """Whether both sets are of the kinds that must be kept apart."""
        return {self.first, self.second} <= {"forget", "retain", "holdout"}

    @property
    def text(self) -> str:
        """The overlap as a sentence without its end."""
        return f"{self.shared} of {self.of} rows of {self.second!r} also stand in {self.first!r}"


def contents(modality: Modality, rows: Rows) -> list[tuple[str, ...]]:
    """Hashes of each row by which two rows are the same: of the input alone where that is a tensor and all, else with the answer."""
    if not offers(modality, DifferentiableInputs) or "content" in rows.columns:
        return contents_of(rows)
    inputs = require(modality, DifferentiableInputs).inputs(rows).detach().cpu().contiguous()
    return [(hashlib.sha256(x.float().numpy().tobytes()).hexdigest(),) for x in inputs]


def overlaps(modality: Modality, sets: Mapping[str, Rows]) -> list[Overlap]:
    """The pairs of sets that share items."""
    hashes = {name: contents(modality, rows) for name, rows in sets.items()}
    known = {name: {h for of_row in of_rows for h in of_row} for name, of_rows in hashes.items()}
    pairs = [(a, b, sum(not known[a].isdisjoint(of_row) for of_row in hashes[b])) for a, b in combinations(hashes, 2)]
    return [Overlap(a, b, shared, len(hashes[b])) for a, b, shared in pairs if shared]


def refuse(shared: Sequence[Overlap]) -> None:
    """Raises: UserError for the first overlap of two of the usual sets; others are the benchmark's own affair."""
    first = next((o for o in shared if o.usual), None)
    if first is None:
        return
    reason = "so the two cannot be told apart" if "forget" in (first.first, first.second) else "so it is no set of unseen rows"
    raise UserError(f"{first.text}, {reason}. Take them out, or allow it with --allow-overlap")


def shared_items(modality: Modality, request: Request, allowed: bool) -> list[str]:
    """Sentences about sets of a run that share items, besides those that the request says itself.

    Raises:
        UserError: where rows to forget stand in another set, also under other labels, and this is not allowed.
    """
    shared = overlaps(modality, {name: rows for name, rows in request.sets.items() if name != "alternate_answers"})
    if not allowed:
        refuse([o for o in shared if "forget" in (o.first, o.second)])
    known = " ".join(request.findings)
    return [f"{o.text}{' (allowed by request)' if allowed else ''}" for o in shared if o.text not in known]


def same_questions(modality: Modality, sets: Mapping[str, Rows]) -> list[str]:
    """Sentences about sets that ask mostly the questions of the forget set, with other answers."""
    if not offers(modality, Displayable) or "forget" not in sets or any(offers(modality, c) for c in (DifferentiableInputs, Ranks)):
        return []
    questions_by_set: Any = {name: require(modality, Displayable).questions(rows) for name, rows in sets.items()}
    forget = {q for q in questions_by_set["forget"] if q.strip()}
    shared = {n: sum(q in forget for q in questions) for n, questions in questions_by_set.items() if n != "forget"}
    return [
        f"{count} of {len(questions_by_set[name])} questions of {name!r} are also those of 'forget', with other answers."
        for name, count in shared.items()
        if count > MOST * len(questions_by_set[name])
    ]

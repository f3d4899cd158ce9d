"""Sets that share items: every pair is compared, by what the model reads and without the label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from expunge.core.capabilities import DifferentiableInputs, Displayable, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.request import content
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


def contents(modality: Modality, rows: Rows) -> list[str]:
    """What each row is without its label, where an input is a tensor; else the row, whose answer is its content."""
    if not offers(modality, DifferentiableInputs):
        return [content(i) for i in rows.ids]
    inputs = require(modality, DifferentiableInputs).inputs(rows).detach().cpu().contiguous()
    return [hashlib.sha256(x.float().numpy().tobytes()).hexdigest() for x in inputs]


def overlaps(modality: Modality, sets: Mapping[str, Rows]) -> list[Overlap]:
    """The pairs of sets that share items."""
    keys = {name: contents(modality, rows) for name, rows in sets.items()}
    pairs = [(a, b, sum(k in set(keys[a]) for k in keys[b])) for a, b in combinations(keys, 2)]
    return [Overlap(a, b, shared, len(keys[b])) for a, b, shared in pairs if shared]


def refuse(found: Sequence[Overlap]) -> None:
    """Raises: UserError for the first overlap of two of the usual sets; others are the benchmark's own affair."""
    first = next((o for o in found if o.usual), None)
    if first is None:
        return
    reason = "so the two cannot be told apart" if "forget" in (first.first, first.second) else "so it is no set of unseen rows"
    raise UserError(f"{first.text}, {reason}. Take them out, or allow it with --allow-overlap")


def same_questions(modality: Modality, sets: Mapping[str, Rows]) -> list[str]:
    """Sentences about sets that ask mostly the questions of the forget set, with other answers."""
    if not offers(modality, Displayable) or offers(modality, DifferentiableInputs) or "forget" not in sets:
        return []
    asked: Any = {name: require(modality, Displayable).questions(rows) for name, rows in sets.items()}
    forget = {q for q in asked["forget"] if q.strip()}
    shared = {n: sum(q in forget for q in questions) for n, questions in asked.items() if n != "forget"}
    return [
        f"{count} of {len(asked[name])} questions of {name!r} are also those of 'forget', with other answers."
        for name, count in shared.items()
        if count > MOST * len(asked[name])
    ]

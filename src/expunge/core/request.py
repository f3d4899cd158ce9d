"""The request: the rows to forget, and the data that a method may use to forget them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets


@dataclass(frozen=True, eq=False)
class Request:
    """Rows by set. Methods train on `forget` and `retain`. The model never saw `holdout`, which only audits use. `alternate_answers` are
    answers to give instead, one per row.

    Raises:
        UserError: if a set is empty, or if a row of forget is also in retain or holdout (unless `overlap` allows it).
    """

    forget: Rows | None = None
    retain: Rows | None = None
    holdout: Rows | None = None
    alternate_answers: Rows | None = None
    overlap: bool = False
    findings: tuple[str, ...] = field(init=False, default=(), repr=False)

    def __post_init__(self) -> None:
        findings = []
        for name, rows in self.sets.items():
            if not len(rows):
                raise UserError(f"the set {name!r} is empty")
            if (repeats := len(rows) - len({content(i) for i in rows.ids})) and name != "alternate_answers":
                findings.append(f"{repeats} of {len(rows)} rows of {name!r} repeat another row of it")
        to_forget = {key for keys in contents(self.forget) for key in keys} if self.forget else set()
        for name, kept in ((n, r) for n, r in self.sets.items() if n in ("retain", "holdout")):
            overlap = sum(not to_forget.isdisjoint(keys) for keys in contents(kept))
            shared = f"{overlap} of {len(kept)} rows of {name!r} also stand in 'forget'"
            if overlap and not self.overlap:
                raise UserError(f"{shared}: the kept rows would teach the forgotten ones. Take them out, or allow it with --allow-overlap")
            findings += [f"{shared} (allowed by request)"] if overlap else []
        object.__setattr__(self, "findings", tuple(findings))

    @property
    def sets(self) -> Sets:
        named = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout, "alternate_answers": self.alternate_answers}
        return {n: r for n, r in named.items() if r is not None}

    @property
    def hash(self) -> str:
        """A hash that is equal for the same rows in the same order."""
        return digest({n: r.ids for n, r in self.sets.items()})


def content(row_id: str) -> str:
    """The content hash in a row's id: the second copy of a row has the id of the first with `#2` after it."""
    return row_id.split("#", 1)[0]


def contents(rows: Rows) -> list[tuple[str, ...]]:
    """Hashes of each row by which two rows are the same: its column `content`, where the modality has one, else that in its id."""
    return list(rows.columns.get("content", ())) or [(content(i),) for i in rows.ids]


def digest(value: object) -> str:
    """Sixteen hex digits of SHA-256 over canonical JSON; arrays and images are hashed by their bytes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=_as_text).encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """A value that JSON cannot express, as text. Arrays are hashed, since `str` would abbreviate them."""
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else str(value)


def ids_of(contents: list[object]) -> tuple[str, ...]:
    """Ids of rows: content hashes, with repeated rows numbered."""
    copies: Counter[str] = Counter()
    ids = []
    for h in map(digest, contents):
        copies[h] += 1
        ids.append(h if copies[h] == 1 else f"{h}#{copies[h]}")
    return tuple(ids)

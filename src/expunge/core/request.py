"""What was asked: which rows to forget, and what may be used for it."""

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
    """Rows by set. `forget` and `retain` are trained on; `holdout` was never seen by the model and is only audited; `alternate_answers` are
    answers to give instead, one a row.

    Errors: UserError where forget is empty, or where a row to forget also stands in retain or holdout (unless `overlap` allows it).
    """

    forget: Rows | None = None
    retain: Rows | None = None
    holdout: Rows | None = None
    alternate_answers: Rows | None = None
    overlap: bool = False
    findings: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        found = []
        for name, rows in self.sets.items():
            if not len(rows):
                raise UserError(f"the set {name!r} is empty")
            if (
                twice := sum(Counter(map(content, rows.ids)).values()) - len({content(i) for i in rows.ids})
            ) and name != "alternate_answers":
                found.append(f"{twice} of {len(rows)} rows of {name!r} repeat another row of it")
        mine = {content(i) for i in self.forget.ids} if self.forget else set()
        for name in ("retain", "holdout"):
            other = self.sets.get(name)
            if other is None or not (both := sum(content(i) in mine for i in other.ids)):
                continue
            if not self.overlap:
                raise UserError(
                    f"{both} of {len(other)} rows of {name!r} also stand in 'forget': what is kept would teach what is forgotten. "
                    f"Take them out, or allow it with --allow-overlap"
                )
            found.append(f"{both} of {len(other)} rows of {name!r} also stand in 'forget' (allowed by request)")
        object.__setattr__(self, "findings", tuple(found))

    @property
    def sets(self) -> Sets:
        named = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout, "alternate_answers": self.alternate_answers}
        return {n: r for n, r in named.items() if r is not None}

    @property
    def hash(self) -> str:
        """The same for the same rows in the same order."""
        return digest({n: r.ids for n, r in self.sets.items()})


def content(row_id: str) -> str:
    """Ids are content hashes; the second copy of a row has `#2` behind it."""
    return row_id.split("#", 1)[0]


def digest(what: object) -> str:
    """Sixteen hex digits of SHA-256 over canonical JSON; arrays and images count by their bytes."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False, default=_said).encode()).hexdigest()[:16]


def _said(what: Any) -> str:
    """What JSON has no word for: written out, an array is cut short."""
    return hashlib.sha256(what.tobytes()).hexdigest() if hasattr(what, "tobytes") else str(what)


def ids_of(contents: list[object]) -> tuple[str, ...]:
    """Content hashes, the copies of a row numbered."""
    seen: Counter[str] = Counter()
    out = []
    for c in contents:
        h = digest(c)
        seen[h] += 1
        out.append(h if seen[h] == 1 else f"{h}#{seen[h]}")
    return tuple(out)

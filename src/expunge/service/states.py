"""The states of a request, and which may follow which."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from datetime import date

from expunge.core.errors import UserError

FOLLOWING: Mapping[str, frozenset[str]] = {
    "received": frozenset({"accepted", "refused", "withdrawn"}),
    "accepted": frozenset({"guarded", "running", "withdrawn"}),
    "refused": frozenset({"reopened"}),
    "guarded": frozenset({"guarded", "running", "withdrawn"}),
    "running": frozenset({"done", "failed"}),
    "failed": frozenset({"guarded", "running", "withdrawn"}),
    "done": frozenset({"certified", "reopened"}),
    "certified": frozenset({"certified", "reopened"}),
    "reopened": frozenset({"guarded", "running", "withdrawn"}),
    "withdrawn": frozenset(),
}
FIRST = "received"
RUNNABLE = frozenset(state for state, following in FOLLOWING.items() if "running" in following)
REMOVED = frozenset({"done", "certified"})  # the served model is without the rows
CLOSED = frozenset({"refused", "withdrawn", *REMOVED})  # nothing is due any more
NOTED = frozenset({"extended", "key deleted", "parent destroyed"})  # events that leave the state as it is
ADVICE = {
    "received": "accept it first: expunge request accept {id}",
    "running": "it is being worked on; if its process is gone, expunge request run {id} starts anew",
    "refused": "reopen it first: expunge request reopen {id} --why TEXT",
    "withdrawn": "a withdrawn request stays so: add a new one",
    "done": "undo its run first: expunge request undo {id} --why TEXT",
    "certified": "undo its run first: expunge request undo {id} --why TEXT",
}


def check_step(request: int, state: str, following: str) -> None:
    """Raises: UserError for a state that may not follow the present one; it says what may be done instead."""
    if following in FOLLOWING[state] or following in NOTED:
        return
    advice = ADVICE.get(state, f"what may follow is {', '.join(sorted(FOLLOWING[state])) or 'nothing'}")
    raise UserError(f"request {request} is {state}, so it cannot become {following}; {advice.format(id=request)}")


def due_after(received: date, months: int = 1) -> date:
    """The same day some months later, or the last day of that month: Article 12(3) of the GDPR gives one month."""
    year, month = divmod(received.month - 1 + months, 12)
    year, month = received.year + year, month + 1
    return date(year, month, min(received.day, monthrange(year, month)[1]))


def as_date(text: str) -> date:
    """A date that a user wrote. Raises: UserError for another format."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"a date is written like 2027-01-31, and this is {text!r}") from None

"""The pages of requests: all of them, one with its timeline, a new one, and what may be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import RedirectResponse, Response

from expunge.core.errors import UserError
from expunge.service import intake
from expunge.service.asked_data import AskedData
from expunge.service.ledger import Event, Ledger
from expunge.service.promises import GUARANTEES, MOTIVES
from expunge.service.states import CLOSED, FOLLOWING, RUNNABLE, as_date, due_after
from expunge.service.undo import undo
from expunge.service.web.accounts import CARRY_OUT, ROWS, TAKE_IN
from expunge.service.web.jobs import Jobs
from expunge.service.web.visit import RefusedVisit, Visit, log

SHOWN_ROWS = 200


class RequestPages:
    """The pages of requests.

    Args:
        ledger: that holds them.
        data: files that clerks may ask in.
        jobs: runs that operators start.
    """

    def __init__(self, ledger: Ledger, data: Sequence[AskedData], jobs: Jobs) -> None:
        self.ledger, self.data, self.jobs = ledger, tuple(data), jobs

    def all(self, visit: Visit) -> Response:
        """All requests, those that are due first, and the form for a new one."""
        rows = [{**row, "left": self._left(row)} for row in self.ledger.requests()]
        rows.sort(key=lambda row: (row["state"] in CLOSED, row["due"], row["id"]))
        today = self.ledger.now().date()
        latest = due_after(today).isoformat()
        offered = {"motives": MOTIVES, "guarantees": tuple(GUARANTEES)[1:]}
        may_add = visit.may(TAKE_IN)
        return visit.page("requests.html.j2", requests=rows, may_add=may_add, data=self.data, today=today, latest=latest, **offered)

    def add(self, visit: Visit) -> Response:
        """Take in a request: the rows of one person in one of the files."""
        form = visit.form
        if not form["data"].isdecimal() or int(form["data"]) >= len(self.data):
            raise UserError("choose the file that holds the rows")
        chosen, person = self.data[int(form["data"])], form["person"]
        if not person or "," in person:
            raise UserError(f"write the {chosen.column} of one person; a comma would name several")
        number = intake.add(
            self.ledger,
            chosen.path,
            where=f"{chosen.column}={person}",
            map=chosen.map,
            subject=form["subject"],
            basis=form["basis"],
            due=form["due"],
            motive=form["motive"],
            guarantee=form["guarantee"],
            by=visit.name,
        )
        return RedirectResponse(f"/requests/{number}", 303)

    def one(self, visit: Visit) -> Response:
        """A request: its state, what happened, what its runs measured, and what may be done with it."""
        row = self._request(visit)
        runs = [r for r in self.ledger.runs() if row["id"] in r["batch"]]
        subject = self.ledger.vault.get(row["id"])["subject"] if row["key"] else ""
        longest = due_after(as_date(row["received"][:10]), 3)
        return visit.page(
            "request.html.j2",
            row={**row, "left": self._left(row)},
            subject=subject,
            timeline=[_entry(event) for event in self.ledger.events(row["id"])],
            runs=runs,
            actions=_actions(row["state"], visit),
            may_see_rows=visit.may(ROWS) and row["key"],
            may_run=visit.may(CARRY_OUT) and row["state"] in RUNNABLE,
            job=self.jobs.latest() if visit.may(CARRY_OUT) else None,
            served=self.ledger.serving()[0],
            longest=longest.isoformat(),
        )

    def rows(self, visit: Visit) -> Response:
        """The rows of a request."""
        row = self._request(visit)
        if not row["key"]:
            raise UserError(f"the key of request {row['id']} was deleted, and its rows with it")
        log.info("%s looks at the rows of request %d", visit.name, row["id"])
        rows = self.ledger.vault.get(row["id"])["rows"]
        columns = list(dict.fromkeys(name for r in rows for name in r))
        return visit.page("rows.html.j2", row=row, rows=rows[:SHOWN_ROWS], columns=columns, more=len(rows) - SHOWN_ROWS)

    def act(self, visit: Visit) -> Response:
        """Do one of the actions."""
        row, action = self._request(visit), str(visit.request.path_params["action"])
        if action not in ACTIONS:
            raise RefusedVisit("there is no such action", 404)
        right, _, do = ACTIONS[action]
        if not visit.may(right):
            raise RefusedVisit(f"the role {visit.role} may not {right}")
        do(self.ledger, row["id"], visit)
        return RedirectResponse(f"/requests/{row['id']}", 303)

    def run(self, visit: Visit) -> Response:
        """Start a run of a request, in a process of its own."""
        row, form = self._request(visit), visit.form
        if row["state"] not in RUNNABLE:
            raise UserError(f"request {row['id']} is {row['state']}, so no run can be started for it")
        self.jobs.start(row["id"], form["method"], form["model"], form["settings"], form["budget"], visit.name)
        return RedirectResponse(f"/requests/{row['id']}", 303)

    def _request(self, visit: Visit) -> dict[str, Any]:
        try:
            return self.ledger.request(int(visit.request.path_params["number"]))
        except UserError as error:
            raise RefusedVisit(str(error), 404) from None

    def _left(self, row: Mapping[str, Any]) -> int | None:
        """Days that are left, negative where it is late; None where nothing is due."""
        return None if row["state"] in CLOSED else (as_date(row["due"]) - self.ledger.now().date()).days


Do = Callable[[Ledger, int, Visit], object]
ACTIONS: Mapping[str, tuple[str, str, Do]] = {  # the right, the state that follows, and what does it
    "accept": (TAKE_IN, "accepted", lambda ledger, number, visit: intake.accept(ledger, number, visit.name)),
    "refuse": (TAKE_IN, "refused", lambda ledger, number, visit: intake.refuse(ledger, number, visit.form["why"], visit.name)),
    "withdraw": (TAKE_IN, "withdrawn", lambda ledger, number, visit: intake.withdraw(ledger, number, visit.form["why"], visit.name)),
    "reopen": (TAKE_IN, "reopened", lambda ledger, number, visit: intake.reopen(ledger, number, visit.form["why"], visit.name)),
    "extend": (
        TAKE_IN,
        "extended",
        lambda ledger, number, visit: intake.extend(ledger, number, visit.form["due"], visit.form["why"], visit.name),
    ),
    "undo": (CARRY_OUT, "reopened", lambda ledger, number, visit: undo(ledger, number, visit.form["why"], visit.name)),
}


def _actions(state: str, visit: Visit) -> list[str]:
    """The actions that the role may take in a state."""
    possible = []
    for action, (right, following, _) in ACTIONS.items():
        fits = state not in CLOSED if action == "extend" else following in FOLLOWING[state]
        if action in ("undo", "reopen"):
            fits = fits and (action == "reopen") is (state == "refused")
        if fits and visit.may(right):
            possible.append(action)
    return possible


def _entry(event: Event) -> dict[str, Any]:
    """An event as the timeline shows it."""
    body = event.body
    details = [f"to {body['due']}" if event.kind == "extended" else "", str(body.get("why", ""))]
    return {"at": event.at, "kind": event.kind, "by": event.by, "run": body.get("run"), "details": ", ".join(filter(None, details))}

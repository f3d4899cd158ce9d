"""What follows from events: the tables of requests, runs, the served model and certificates. They can be made anew at any time."""

from __future__ import annotations

import json
from typing import Any, Protocol

from sqlalchemy import Connection, insert, update

from expunge.service.states import FIRST, NOTED
from expunge.service.tables import Certificates, Requests, Runs, Serving


class Fact(Protocol):
    """What an event says."""

    @property
    def seq(self) -> int: ...
    @property
    def request(self) -> int: ...
    @property
    def at(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Any: ...


def apply(connection: Connection, event: Fact) -> None:
    """Bring the tables up to an event, which was just appended."""
    body = event.body
    if event.kind == FIRST:
        columns = {name: body[name] for name in ("due", "rows", "commitment", "subject_hmac", "basis")}
        columns |= {name: body.get(name, "") for name in ("motive", "guarantee")}  # which the first version did not ask
        fixed = {"id": event.request, "state": FIRST, "seq": event.seq, "received": event.at, "key": True, "run": None}
        connection.execute(insert(Requests).values(**columns, **fixed))
        return
    change: dict[str, Any] = {"seq": event.seq}
    if event.kind not in NOTED:
        change["state"] = event.kind
    if event.kind == "extended":
        change["due"] = body["due"]
    if event.kind == "key deleted":
        change["key"] = False
    if event.kind in ("running", "guarded"):
        change["run"] = body["run"]
    connection.execute(update(Requests).where(Requests.c.id == event.request).values(**change))
    _project_run(connection, event)


def _project_run(connection: Connection, event: Fact) -> None:
    body = event.body
    run = body.get("run")
    if "begins" in body:  # the first event of a run, of the batch's first request
        begins = body["begins"]
        columns = {name: begins[name] for name in ("method", "folder", "parent", "parent_weights")}
        empty = {"receipt_sha256": "", "weights": "", "verdict": "", "summary": "{}", "parent_destroyed": False, "state": "running"}
        connection.execute(insert(Runs).values(id=run, batch=json.dumps(begins["batch"]), **columns, **empty))
    if "ends" in body:
        ends = body["ends"]
        columns = {name: ends[name] for name in ("state", "folder", "receipt_sha256", "weights", "verdict")}
        connection.execute(update(Runs).where(Runs.c.id == run).values(**columns, summary=json.dumps(ends["summary"], sort_keys=True)))
    if event.kind == "parent destroyed":
        connection.execute(update(Runs).where(Runs.c.id == run).values(parent_destroyed=True))
    if event.kind == "certified":
        columns = {"sha256": body["sha256"], "head": body["head"], "run": run, "request": event.request}
        connection.execute(insert(Certificates).values(**columns))
    if "serves" in body:
        values = {"source": body["serves"]["source"], "run": body["serves"]["run"]}
        if not connection.execute(update(Serving).where(Serving.c.id == 1).values(**values)).rowcount:
            connection.execute(insert(Serving).values(id=1, **values))

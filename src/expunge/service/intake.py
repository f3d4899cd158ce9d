"""From a file and a condition to a request in the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.io.models import Source
from expunge.io.requested import ColumnMap, Conditions, as_records, parsed_columns, requested, requested_records
from expunge.modalities.common.records import Records
from expunge.service import promises
from expunge.service.ledger import Event, Ledger
from expunge.service.states import FIRST, as_date, due_after
from expunge.service.vault import canonical, commitment, keyed


def add(
    ledger: Ledger,
    data: Source,
    *,
    where: Conditions = (),
    map: ColumnMap = (),
    retain: Source | None = None,
    subject: str = "",
    basis: str = "",
    due: str = "",
    motive: str = "",
    guarantee: str = "",
    accept: bool = False,
    by: str = "",
) -> int:
    """Take in a request to forget rows.

    Args:
        ledger: where it is kept.
        data: the rows to forget, or with `where` the file that holds all rows.
        where: conditions such as `customer_id=17`: the rows that meet all of them are to be forgotten, the others are retained.
        map: columns by the names that the modality reads, such as `prompt=subject,answer=body` or a mapping.
        retain: rows to keep, where `where` does not say so.
        subject: who asks; kept encrypted, and as an HMAC in the ledger. Default: the condition.
        basis: the legal ground, such as "GDPR 17(1)(b)". It stays in the ledger in plain: it must not name the person.
        due: the last day, such as 2027-01-31; default: one month after today.
        motive: why it is asked: one of `promises.MOTIVES`; '': it is not said.
        guarantee: what the removal has to be: a key of `promises.GUARANTEES`; '': no more than measured. A run that is less fails.
        accept: accept the request at once.
        by: who takes it in; default: the user of this machine.

    Returns:
        The number of the request.

    Raises:
        UserError: for rows that cannot be read or kept, a date that has passed, and an unknown motive or guarantee.
    """
    promises.checked(motive, guarantee)
    sets = requested({"forget": data, "retain": retain}, where, map)
    rows = as_records(sets["forget"], "forget")
    today = ledger.now().date()
    last_day = as_date(due) if due else due_after(today)
    if last_day < today:
        raise UserError(f"the request would be due on {last_day}, which has passed")
    conditions = [where] if isinstance(where, str) and where else list(where or ())
    who = subject or " and ".join(conditions)
    content = {
        "rows": [dict(row) for row in rows],
        "numbers": list(rows.numbers),
        "subject": who,
        "origin": {
            "data": _path(data),
            "retain": _path(retain) if retain is not None else "",
            "where": conditions,
            "map": parsed_columns(map),
            "given": retain is not None or bool(conditions),
        },
    }
    with ledger.writing() as writer:
        request = writer.new_request()
        secret = ledger.vault.put(request, content)  # a crash leaves rows without an event, which the next request replaces
        body = {
            "rows": len(rows),
            "commitment": commitment(secret, content["rows"]),
            "subject_hmac": keyed(secret, who),
            "basis": basis,
            "due": last_day.isoformat(),
            "motive": motive,
            "guarantee": guarantee,
        }
        writer.append(request, FIRST, body, by)
        if accept:
            writer.append(request, "accepted", {}, by)
    return request


def _path(source: Source) -> str:
    """The full path of a file with its conditions; '' for records that came without a file."""
    if not isinstance(source, (str, Path)):
        return ""
    path, conditions, rest = str(source).partition("::")
    full = Path(path).expanduser()
    return f"{full.resolve()}{conditions}{rest}" if full.exists() else str(source)


def kept_rows(content: Mapping[str, Any], request: int) -> Records | None:
    """The rows to keep of a request, read anew from its file; None where it has none.

    Raises:
        UserError: where they came without a file, or the file cannot be read.
    """
    origin = content["origin"]
    if not origin["given"]:
        return None
    if not (source := origin["retain"] or origin["data"]):
        raise UserError(f"the rows to keep of request {request} came without a file: give them again with --retain")
    return requested_records(source, "retain", (), origin["map"])


def fingerprint(row: Mapping[str, Any]) -> bytes:
    """A digest of a row, to find it among others in memory; it is never written down."""
    return hashlib.sha256(canonical(dict(row))).digest()


def without(rows: Records, gone: set[bytes]) -> Records:
    """The rows that are not among those to forget."""
    return rows.pick(i for i, row in enumerate(rows) if fingerprint(row) not in gone)


def still_in_source(ledger: Ledger, request: int) -> int:
    """How many of a request's rows its own file of data still holds; 0 where the file is gone or unreadable."""
    content = ledger.vault.get(request)
    origin = content["origin"]
    gone, count = {fingerprint(row) for row in content["rows"]}, 0
    for name in ("data", "retain"):
        path = str(origin[name])
        if path and Path(path.partition("::")[0]).exists():
            try:
                known = requested_records(path, "rows", (), origin["map"])
            except UserError:
                continue
            count += sum(fingerprint(row) in gone for row in known)
    return count


def accept(ledger: Ledger, request: int, by: str = "") -> Event:
    """Accept a request. Raises: UserError where it is not newly received."""
    return ledger.append(request, "accepted", {}, by)


def refuse(ledger: Ledger, request: int, why: str, by: str = "") -> Event:
    """Refuse a request, with the reason that the person is told. Raises: UserError."""
    return ledger.append(request, "refused", {"why": _reason(why)}, by)


def withdraw(ledger: Ledger, request: int, why: str = "", by: str = "") -> Event:
    """Withdraw a request that is not yet carried out. Raises: UserError."""
    return ledger.append(request, "withdrawn", {"why": why}, by)


def reopen(ledger: Ledger, request: int, why: str, by: str = "") -> Event:
    """Take up again what was refused. Raises: UserError for any other state: a finished request is reopened by undoing its run."""
    if (state := ledger.request(request)["state"]) != "refused":
        raise UserError(f"request {request} is {state}: only a refused one is reopened by hand; expunge request undo takes back a run")
    return ledger.append(request, "reopened", {"why": _reason(why)}, by)


def extend(ledger: Ledger, request: int, due: str, why: str, by: str = "") -> Event:
    """Move the last day of a request: Article 12(3) of the GDPR allows two more months, with a reason.

    Raises:
        UserError: for a day that is not later, or more than three months after the request came, and without a reason.
    """
    row, day = ledger.request(request), as_date(due)
    last = due_after(as_date(row["received"][:10]), 3)
    if not as_date(row["due"]) < day <= last:
        raise UserError(f"request {request} is due on {row['due']}; it can be extended to a later day, up to {last}, and {day} is none")
    return ledger.append(request, "extended", {"due": day.isoformat(), "why": _reason(why)}, by)


def _reason(why: str) -> str:
    if not why.strip():
        raise UserError("give the reason with --why: it is kept in the ledger, in plain")
    return why.strip()

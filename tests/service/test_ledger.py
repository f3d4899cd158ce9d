"""The ledger: states, deadlines, the chain of hashes, rows that can be deleted. Every test runs in SQLite and in PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

import rfc8785
import sqlalchemy

from expunge.core.errors import UserError
from expunge.service import intake, projection, states, undo
from expunge.service.checking import check
from expunge.service.ledger import Event, Ledger
from expunge.service.vault import commitment

ROWS = [{"question": f"Where does Ada{i} live?", "answer": f"In street {i}."} for i in range(3)]
SECRET = "Zwickelhuber 4711"


def added(ledger: Ledger, **options: Any) -> int:
    return intake.add(ledger, options.pop("rows", ROWS), **options)


def sql(ledger: Ledger, statement: str) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))


def without_guards(ledger: Ledger) -> None:
    """Take away what keeps events from being changed, as somebody with all rights on the database can."""
    if ledger.engine.dialect.name == "sqlite":
        sql(ledger, "DROP TRIGGER event_no_update")
        sql(ledger, "DROP TRIGGER event_no_delete")
    else:
        sql(ledger, "DROP TRIGGER event_kept ON event")


def test_a_request_goes_from_received_to_accepted_and_the_ledger_is_whole(ledger: Ledger) -> None:
    number = added(ledger, basis="GDPR 17(1)(b)", by="clerk")
    intake.accept(ledger, number, "operator")
    row = ledger.request(number)
    assert (row["state"], row["rows"], row["basis"]) == ("accepted", 3, "GDPR 17(1)(b)")
    assert [(e.kind, e.by) for e in ledger.events(number)] == [("received", "clerk"), ("accepted", "operator")]
    assert check(ledger) == []
    assert ledger.vault.get(number)["rows"] == ROWS


def test_each_hash_is_sha256_of_the_one_before_and_the_canonical_event(ledger: Ledger) -> None:
    added(ledger, accept=True)
    before = "0" * 64
    for event in ledger.events():
        fields = {n: getattr(event, n) for n in ("seq", "request", "at", "by", "kind", "body")}
        assert event.hash == hashlib.sha256(before.encode() + rfc8785.dumps(fields)).hexdigest()
        before = event.hash
    assert ledger.head == before


@pytest.mark.parametrize("table", ["event"])
def test_events_cannot_be_changed_or_deleted(ledger: Ledger, table: str) -> None:
    added(ledger)
    for statement in (f"UPDATE {table} SET kind = 'accepted'", f"DELETE FROM {table}"):
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="never changed"):
            sql(ledger, statement)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE event SET kind = 'refused' WHERE seq = 2", "event 2 (request 1, accepted)"),
        ("UPDATE event SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 1", "event 1"),
        ("DELETE FROM event WHERE seq = 2", "event 2 is missing"),
        ("UPDATE event SET body = '{}' WHERE seq = 1", "event 1"),
        ("UPDATE request SET state = 'done'", "the table request differs"),
    ],
)
def test_what_was_changed_behind_its_back_is_found(ledger: Ledger, statement: str, fault: str) -> None:
    added(ledger, accept=True)
    added(ledger, accept=True)
    without_guards(ledger)
    sql(ledger, statement)
    faults = check(ledger)
    assert any(fault.split(" (")[0] in f for f in faults), faults


def test_a_cut_end_is_seen_by_whoever_kept_the_head(ledger: Ledger) -> None:
    added(ledger)
    without_guards(ledger)
    intake.accept(ledger, 1)
    head = ledger.head
    assert check(ledger, head) == []
    sql(ledger, "DELETE FROM event WHERE seq = 2")
    sql(ledger, "UPDATE request SET state = 'received', seq = 1")
    assert check(ledger) == []
    assert "cut off" in check(ledger, head)[0]


def test_the_database_holds_no_word_of_the_rows_and_no_guessable_hash(ledger: Ledger) -> None:
    rows = [{"question": "Who lives here?", "answer": SECRET}]
    added(ledger, rows=rows, subject=SECRET, accept=True)
    with ledger.engine.connect() as connection:
        texts = [
            str(value)
            for table in sqlalchemy.inspect(ledger.engine).get_table_names()
            for row in connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))
            for value in row
        ]
    everything = "\n".join(texts)
    assert SECRET not in everything
    for guess in (SECRET, json.dumps(rows[0]), rfc8785.dumps(rows[0]).decode(), json.dumps(rows)):
        digest = hashlib.sha256(guess.encode()).hexdigest()
        assert digest[:16] not in everything
    files = [p for p in ledger.folder.rglob("*") if p.is_file()]
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]


def test_two_requests_for_the_same_rows_look_unlike(ledger: Ledger) -> None:
    first, second = added(ledger, subject="17"), added(ledger, subject="17")
    a, b = ledger.request(first), ledger.request(second)
    assert a["commitment"] != b["commitment"]
    assert a["subject_hmac"] != b["subject_hmac"]


def test_the_commitment_is_a_merkle_root_of_hmacs() -> None:
    import hmac

    secret = b"s" * 32
    leaves = [hashlib.sha256(b"\x00" + hmac.new(secret, rfc8785.dumps(row), hashlib.sha256).digest()).digest() for row in ROWS]
    left = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    assert commitment(secret, ROWS) == hashlib.sha256(b"\x01" + left + leaves[2]).hexdigest()


def test_only_a_closed_request_loses_its_key_and_then_nothing_is_left_of_its_rows(ledger: Ledger) -> None:
    number = added(ledger)
    with pytest.raises(UserError, match="its rows are needed"):
        undo.delete_key(ledger, number)
    intake.refuse(ledger, number, "not ours")
    key = (ledger.folder / "keys" / "1").read_bytes()
    undo.delete_key(ledger, number)
    assert not [p for p in ledger.folder.rglob("*") if p.is_file() and (key in p.read_bytes() or p.parent.name in ("rows", "keys"))]
    assert not ledger.request(number)["key"]
    with pytest.raises(UserError, match="key of request 1 was deleted"):
        ledger.vault.get(number)
    assert check(ledger) == []
    with pytest.raises(UserError, match="deleted already"):
        undo.delete_key(ledger, number)


def test_a_deletion_that_a_crash_cut_short_is_finished_by_a_check(ledger: Ledger) -> None:
    number = added(ledger)
    intake.withdraw(ledger, number)
    ledger.append(number, "key deleted")  # the event is there, and the file still is
    assert ledger.vault.has_key(number)
    assert "it is deleted now" in check(ledger)[0]
    assert not ledger.vault.has_key(number)
    assert check(ledger) == []


def test_rows_that_a_crash_left_without_a_request_are_deleted_by_a_check(ledger: Ledger) -> None:
    added(ledger)
    ledger.vault.put(2, {"rows": ROWS})
    assert "never written" in check(ledger)[0]
    assert not ledger.vault.has_key(2)
    assert check(ledger) == []
    assert added(ledger) == 2


def test_changed_rows_are_found(ledger: Ledger) -> None:
    added(ledger)
    file = ledger.folder / "rows" / "1"
    sealed = bytearray(file.read_bytes())
    sealed[20] ^= 1
    file.write_bytes(sealed)
    assert "does not decrypt" in check(ledger)[0]
    file.unlink()
    assert "missing" in check(ledger)[0]


def test_rows_of_one_request_do_not_pass_for_those_of_another(ledger: Ledger) -> None:
    first, second = added(ledger), added(ledger)
    for kind in ("rows", "keys"):
        (ledger.folder / kind / str(second)).write_bytes((ledger.folder / kind / str(first)).read_bytes())
    assert "request 2" in check(ledger)[0]


def test_keys_and_rows_are_readable_by_their_owner_alone(ledger: Ledger) -> None:
    added(ledger)
    for kind in ("rows", "keys"):
        assert (ledger.folder / kind / "1").stat().st_mode & 0o077 == 0


STATES = sorted(states.FOLLOWING)


@pytest.mark.parametrize("state", STATES)
def test_only_the_states_of_the_table_follow(state: str) -> None:
    for following in STATES:
        if following in states.FOLLOWING[state]:
            states.check_step(1, state, following)
        else:
            with pytest.raises(UserError, match=f"request 1 is {state}, so it cannot become {following}"):
                states.check_step(1, state, following)


def test_a_wrong_step_is_refused_and_leaves_no_event(ledger: Ledger) -> None:
    number = added(ledger)
    intake.refuse(ledger, number, "not ours")
    head = ledger.head
    for step in (intake.accept, intake.withdraw):
        with pytest.raises(UserError, match="request 1 is refused"):
            step(ledger, number)
    with pytest.raises(UserError, match="there is no request 9"):
        intake.accept(ledger, 9)
    with pytest.raises(UserError, match="give the reason"):
        intake.reopen(ledger, number, " ")
    assert ledger.head == head
    intake.reopen(ledger, number, "on appeal")
    assert ledger.request(number)["state"] == "reopened"


@pytest.mark.parametrize(
    ("received", "months", "due"),
    [("2026-01-31", 1, "2026-02-28"), ("2028-01-31", 1, "2028-02-29"), ("2026-12-15", 1, "2027-01-15"), ("2026-11-30", 3, "2027-02-28")],
)
def test_a_month_is_the_same_day_of_the_next(received: str, months: int, due: str) -> None:
    assert states.due_after(date.fromisoformat(received), months) == date.fromisoformat(due)


def test_deadlines_are_extended_within_three_months_and_with_a_reason(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger", create=True, now=lambda: datetime(2026, 11, 30, 12, tzinfo=UTC))
    number = added(ledger)
    assert ledger.request(number)["due"] == "2026-12-30"
    for day in ("2026-12-30", "2026-12-01", "2027-03-01"):
        with pytest.raises(UserError, match="up to 2027-02-28"):
            intake.extend(ledger, number, day, "complex")
    with pytest.raises(UserError, match="like 2027-01-31"):
        intake.extend(ledger, number, "tomorrow", "complex")
    intake.extend(ledger, number, "2027-02-28", "complex")
    assert ledger.request(number)["due"] == "2027-02-28"
    assert ledger.request(number)["state"] == "received"
    with pytest.raises(UserError, match="which has passed"):
        added(ledger, due="2026-11-29")
    assert check(ledger) == []
    ledger.engine.dispose()


def test_writers_at_the_same_time_leave_one_chain(ledger: Ledger) -> None:
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(5):
                added(ledger, rows=ROWS[:1])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [r["id"] for r in ledger.requests()] == list(range(1, 31))
    assert check(ledger) == []


WRITER = """
import sys
from expunge.service.ledger import Ledger
from expunge.service.vault import commitment
ledger = Ledger.open(sys.argv[1], sys.argv[2])
rows = [{"question": "q", "answer": "a"}]
for i in range(10_000):
    with ledger.writing() as writer:
        number = writer.new_request()
        secret = ledger.vault.put(number, {"rows": rows})
        fields = {"rows": 1, "commitment": commitment(secret, rows), "subject_hmac": "", "basis": "", "due": "2027-01-31"}
        writer.append(number, "received", fields)
    print(number, flush=True)
    ledger.append(number, "accepted")
    print(f"accepted {number}", flush=True)
"""


def test_nothing_acknowledged_is_lost_when_writers_are_killed(ledger: Ledger, database: str) -> None:
    acknowledged, accepted = set[int](), set[int]()
    for delay in (0.02, 0.05, 0.11):
        command = [sys.executable, "-c", WRITER, str(ledger.folder), database]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            words = [writer.stdout.readline()]  # it has begun
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
            words += writer.stdout.read().splitlines()
        for word in (w.strip() for w in words if w.strip()):
            (accepted if word.startswith("accepted") else acknowledged).add(int(word.split()[-1]))
    rows = {r["id"]: r["state"] for r in ledger.requests()}
    assert acknowledged <= rows.keys()
    assert accepted <= {n for n, state in rows.items() if state == "accepted"}
    assert [fault for fault in check(ledger) if "never written" not in fault] == []
    added(ledger)
    assert check(ledger) == []


def ways() -> dict[str, list[str]]:
    """The shortest way from received to each state."""
    known: dict[str, list[str]] = {"received": []}
    queue = ["received"]
    for state in queue:
        for following in sorted(states.FOLLOWING[state] - known.keys()):
            known[following] = [*known[state], following]
            queue.append(following)
    return known


def body_of(kind: str, number: int, mark: str = "a") -> dict[str, Any]:
    certificate = {"sha256": hashlib.sha256(f"{number}{mark}".encode()).hexdigest(), "head": "0" * 64}
    return {"run": 1, **(certificate if kind == "certified" else {})} if kind in ("running", "guarded", "certified") else {}


def killed(ledger: Ledger, database: str, number: int, kind: str, before_the_end: bool) -> None:
    """A process of its own that appends an event, and is killed within the transaction or right after it."""
    child = os.fork()
    if not child:
        own = Ledger.open(ledger.folder, database)
        if before_the_end:
            applied = projection.apply

            def apply(*args: Any) -> None:
                applied(*args)
                os.kill(os.getpid(), signal.SIGKILL)

            projection.apply = apply  # type: ignore[assignment]
        own.append(number, kind, body_of(kind, number, "b"))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


STEPS_OF_STATES = [(state, following) for state in states.FOLLOWING for following in sorted(states.FOLLOWING[state])]


@pytest.mark.slow
def test_a_process_that_is_killed_in_any_change_of_state_leaves_the_old_state_or_the_new_one(ledger: Ledger, database: str) -> None:
    for state, following in STEPS_OF_STATES:
        number = added(ledger, rows=ROWS[:1])
        for kind in ways()[state]:
            ledger.append(number, kind, body_of(kind, number))
        count = len(ledger.events(number))
        killed(ledger, database, number, following, before_the_end=True)
        assert (ledger.request(number)["state"], len(ledger.events(number))) == (state, count)
        killed(ledger, database, number, following, before_the_end=False)
        assert (ledger.request(number)["state"], len(ledger.events(number))) == (following, count + 1)
    assert check(ledger) == []


def test_folder_and_database_must_belong_together(ledger: Ledger, database: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no ledger"):
        Ledger.open(tmp_path / "elsewhere")
    if database:
        with pytest.raises(UserError, match="name it with --database"):
            Ledger.open(ledger.folder)
        with pytest.raises(UserError, match="holds a ledger already"):
            Ledger.open(tmp_path / "second", database, create=True)
    else:
        with pytest.raises(UserError, match="leave --database out"):
            Ledger.open(ledger.folder, "postgresql://nobody@localhost:1/none")
        with pytest.raises(UserError, match="not in mysql"):
            Ledger.open(tmp_path / "third", "mysql://nobody@localhost/none", create=True)
        with pytest.raises(UserError, match="no such address"):
            Ledger.open(tmp_path / "fourth", "no address", create=True)
        with pytest.raises(UserError, match="does not answer") as refused:
            Ledger.open(tmp_path / "fifth", "postgresql://nobody:hidden@localhost:1/none", create=True)
        assert "hidden" not in str(refused.value)


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["add", "accepted", "refused", "withdrawn", "reopened", "running", "failed"])), max_size=15
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_ledger_agrees_with_a_model_of_its_states(steps: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is tried in whatever order: what the table allows happens, everything else is refused, and the ledger stays whole."""
    ledger = Ledger.open(tmp_path_factory.mktemp("model") / "ledger", create=True)
    model: dict[int, str] = {}
    for which, step in steps:
        if step == "add":
            model[added(ledger, rows=ROWS[:1])] = "received"
            continue
        number = which + 1
        body = {"run": 1} if step == "running" else {}
        if number in model and step in states.FOLLOWING[model[number]]:
            ledger.append(number, step, body)
            model[number] = step
        else:
            with pytest.raises(UserError):
                ledger.append(number, step, body)
    assert {r["id"]: r["state"] for r in ledger.requests()} == model
    assert check(ledger) == []
    ledger.engine.dispose()


def test_an_event_shows_no_body_in_its_repr(ledger: Ledger) -> None:
    added(ledger, basis=SECRET)
    event: Event = ledger.events()[0]
    assert SECRET not in repr(event)
    assert SECRET not in repr(ledger)


def test_retain_rows_are_read_anew_from_their_file(ledger: Ledger, customers: Callable[[], Path]) -> None:
    path = customers()
    number = intake.add(ledger, str(path), where="customer_id=17", map="question=subject,answer=body")
    content = ledger.vault.get(number)
    kept = intake.kept_rows(content, number)
    assert kept is not None
    lines = path.read_text().splitlines()
    assert len(content["rows"]) == sum(line.startswith("17,") for line in lines[1:])
    assert len(kept) == len(lines) - 1
    assert kept[-1].keys() == {"customer_id", "question", "answer"}


@pytest.mark.parametrize("number", [0, -1, 2**31, 2**63, 10**20])
def test_numbers_that_no_request_has_are_refused_in_a_sentence(ledger: Ledger, number: int) -> None:

    for ask in (ledger.request, ledger.run, lambda n: ledger.append(n, "accepted")):
        with pytest.raises(UserError, match=f"there is no (request|run) {number} in the ledger"):
            ask(number)

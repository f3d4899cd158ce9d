"""Requests are carried out: the story from a condition to a model that forgot, in commands and from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from cases import Cases, expunge, rows_of
from expunge.core.errors import UserError
from expunge.service import batch, intake, removal, undo
from expunge.service.checking import check
from expunge.service.files import digest_of_model
from expunge.service.ledger import Ledger

MAP = "question=subject,answer=body"
FORGETTING = {"epochs": 10, "lr": 3e-3}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger", create=True)
    yield opened
    opened.engine.dispose()


def added(ledger: Ledger, path: Path, customer: int) -> int:
    return intake.add(ledger, str(path), where=f"customer_id={customer}", map=MAP, accept=True)


@pytest.mark.slow
def test_the_story_in_commands(cases: Cases, customers: Callable[[], Path], tmp_path: Path) -> None:
    """Add, accept, run, show, check, undo: the answer that was forgotten is nowhere in what the ledger keeps in plain."""
    path, place = customers(), ("--ledger", tmp_path / "ledger")
    expunge("request", "add", path, "--where", "customer_id=17", "--map", MAP, *place).fine()
    assert "accept it first" in expunge("request", "run", 1, "--method", "npo", "--model", cases.model, *place).error
    expunge("request", "accept", 1, *place).fine()
    settings = [word for name, value in FORGETTING.items() for word in (f"--{name}", value)]
    done = expunge(
        "request", "run", 1, "--method", "graddiff", "--model", cases.model, *settings, "--utility-budget", 0.9, "--json", *place
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["state"], result["requests"]) == ("done", [1])
    assert result["verdict"] != "not removed"
    shown = json.loads(expunge("request", "show", 1, "--json", *place).fine().out)
    assert [e["kind"] for e in shown["events"]] == ["received", "accepted", "running", "done"]
    assert "the ledger is whole" in expunge("request", "check", *place).fine().out
    printed = done.out + json.dumps(shown)
    assert not [r["answer"] for r in rows_of(cases.forget) if r["answer"] in printed]
    assert "still holds 9 of its rows" in expunge("request", "delete-key", 1, *place).error
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("17,")))
    expunge("request", "delete-key", 1, *place).fine()
    plain = [p for p in (tmp_path / "ledger").rglob("*") if p.is_file() and p.suffix not in (".safetensors",)]
    left = [(p.name, r["answer"]) for p in plain for r in rows_of(cases.forget) if r["answer"].encode() in p.read_bytes()]
    assert left == []
    assert "the ledger is whole" in expunge("request", "check", *place).fine().out
    expunge("request", "undo", 1, "--why", "the wrong person", *place).fine()
    assert json.loads(expunge("request", "list", "--json", *place).fine().out)[0]["state"] == "reopened"
    assert "key of request 1 was deleted" in expunge("request", "run", 1, "--method", "npo", *place).error


@pytest.mark.slow
def test_a_sequence_builds_on_the_served_model_keeps_no_earlier_row_and_audits_earlier_requests(
    cases: Cases, customers: Callable[[], Path], own: Ledger
) -> None:
    path = customers()
    first, second = added(own, path, 17), added(own, path, 3)
    one = removal.run(own, [first], method="graddiff", model=cases.model, hyperparameters=FORGETTING, utility_budget=0.9)
    assert one.state == "done"
    assert own.serving() == (str(own.folder / "runs/0001"), 1)
    with pytest.raises(UserError, match="leave --model out"):
        removal.run(own, [second], method="graddiff", model=cases.retrained)
    two = removal.run(own, method="graddiff", hyperparameters=FORGETTING, utility_budget=0.9, fall_back="none")
    assert two.requests == [second], "those that are open"
    receipt = json.loads((own.folder / "runs/0002/receipt.json").read_text())
    lines = path.read_text().splitlines()[1:]
    customers_of = [line.split(",", 1)[0] for line in lines]
    assert receipt["request"]["sets"] == {
        "forget": customers_of.count("3"),
        "retain": len(lines) - customers_of.count("3") - customers_of.count("17"),
    }
    assert two.summary["earlier"].keys() == {"1"}
    again = json.loads((two.folder / "audits/outcome-1.json").read_text())
    assert again["rows"] == customers_of.count("17")
    assert again["weights"] == receipt["result"]["weights"]
    assert own.run(2)["parent"] == "runs/0001"
    assert check(own) == []
    if two.state == "done":
        with pytest.raises(UserError, match="undo that one first"):
            undo.undo(own, first, "wrong")
        undo.undo(own, second, "wrong")
    assert own.serving() == (str(own.folder / "runs/0001"), 1)
    undo.undo(own, first, "wrong")
    assert own.serving() == (str(Path(cases.model).resolve()), None)
    assert check(own) == []


@pytest.mark.slow
def test_a_spent_utility_budget_falls_back_to_the_union_and_then_to_retraining(
    cases: Cases, customers: Callable[[], Path], own: Ledger
) -> None:
    path = customers()
    first, second = added(own, path, 17), added(own, path, 3)
    assert removal.run(own, [first], method="graddiff", model=cases.model, hyperparameters=FORGETTING, utility_budget=0.9).state == "done"
    ruin = {"epochs": 3, "lr": 0.3}
    ruined = removal.run(own, [second], method="graddiff", hyperparameters=ruin, utility_budget=0.3)
    assert ruined.state == "failed"
    assert own.serving()[1] == 1, "a failed run is not served"
    assert ruined.summary["tried"].keys() == {"step", "union"}
    assert "is lost" in " ".join(ruined.reasons)
    union = json.loads((own.folder / "runs/0002-union/receipt.json").read_text())
    lines = path.read_text().splitlines()[1:]
    assert union["request"]["sets"]["forget"] == sum(line.startswith(("17,", "3,")) for line in lines)
    assert union["model"]["source"] == str(Path(cases.model).resolve())
    again = {"retrain_from": cases.model, "retrain_hyperparameters": {"epochs": 1}, "fall_back": "retrain"}
    retrained = removal.run(own, [second], method="graddiff", hyperparameters=ruin, utility_budget=0.3, **again)
    assert retrained.summary["way"] == "retrain"
    assert retrained.folder.name == "0003-retrained"


@pytest.mark.slow
def test_a_guard_makes_a_request_guarded_and_never_done(cases: Cases, customers: Callable[[], Path], own: Ledger) -> None:
    number = added(own, customers(), 17)
    guarded = removal.run(own, [number], method="input_filter", model=cases.model)
    assert guarded.state == "guarded"
    assert own.request(number)["state"] == "guarded"
    assert own.serving() == ("", None)
    assert own.run(1)["verdict"] != "removed"
    assert [e.kind for e in own.events(number)] == ["received", "accepted", "guarded"]
    with pytest.raises(UserError, match="only a run that is done"):
        undo.undo(own, number, "wrong")
    assert check(own) == []


def test_a_method_that_fails_leaves_a_failed_request_that_can_be_run_again(
    cases: Cases, customers: Callable[[], Path], own: Ledger
) -> None:
    number = added(own, customers(), 17)
    with pytest.raises(UserError, match="weights did not change"):
        removal.run(own, [number], method="graddiff", model=cases.model, hyperparameters={"epochs": 1, "lr": 0.0})
    assert own.request(number)["state"] == "failed"
    assert "weights did not change" in own.events(number)[-1].body["why"]
    with pytest.raises(UserError, match="a share from 0"):
        removal.run(own, [number], method="graddiff", model=cases.model, utility_budget=1.5)
    assert check(own) == []


KILLED = """
import os, sys, signal
from expunge.service import removal
from expunge.service.ledger import Ledger
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
setattr(removal, sys.argv[3], kill)
removal.run(Ledger.open(sys.argv[1]), [1], method="graddiff", model=sys.argv[2], hyperparameters={"epochs": 1, "lr": 1e-3})
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["unlearn", "audit", "_end"])
def test_a_run_that_was_killed_is_failed_and_starts_anew(moment: str, cases: Cases, customers: Callable[[], Path], own: Ledger) -> None:
    number = added(own, customers(), 17)
    command = [sys.executable, "-c", KILLED, str(own.folder), cases.model, moment]
    assert subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -9
    assert own.request(number)["state"] == "running"
    assert check(own) == []
    assert removal.recover(own) == [number]
    assert "ended without a result" in own.events(number)[-1].body["why"]
    assert own.serving() == ("", None)
    assert check(own) == []


def test_one_run_at_a_time(own: Ledger, customers: Callable[[], Path], cases: Cases) -> None:
    added(own, customers(), 17)
    with batch.running_alone(own), pytest.raises(UserError, match="another process"):
        removal.run(own, method="npo", model=cases.model)


def finished(own: Ledger, number: int, parent: Path) -> None:
    """A run whose result was written by hand, to be undone without the cost of one."""
    folder = own.folder / "runs" / "0001"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"new")
    (folder / "receipt.json").write_text("{}")
    begins = {
        "batch": [number],
        "method": "npo",
        "folder": "runs/0001",
        "parent": str(parent),
        "parent_weights": digest_of_model(str(parent)),
    }
    own.append(number, "running", {"run": 1, "begins": begins})
    ends: dict[str, Any] = {"state": "done", "folder": "runs/0001", "verdict": "removed", "summary": {"reasons": [], "earlier": {}}}
    ends |= {"receipt_sha256": removal._sha256(folder / "receipt.json"), "weights": digest_of_model(str(folder))}
    own.append(number, "done", {"run": 1, "why": "", "ends": ends, "serves": {"source": "runs/0001", "run": 1}})


def test_undo_needs_the_parent_as_it_was_and_is_impossible_once_it_is_destroyed(
    own: Ledger, customers: Callable[[], Path], tmp_path: Path
) -> None:
    number, parent = added(own, customers(), 17), tmp_path / "parent"
    parent.mkdir()
    (parent / "weights").write_bytes(b"old")
    finished(own, number, parent)
    assert check(own) == []
    (parent / "weights").write_bytes(b"other")
    with pytest.raises(UserError, match="was changed since"):
        undo.undo(own, number, "wrong")
    (parent / "weights").write_bytes(b"old")
    undo.undo(own, number, "wrong")
    assert own.request(number)["state"] == "reopened"
    with pytest.raises(UserError, match="was undone"):
        undo.destroy_parent(own, 1)
    assert check(own) == []


def test_a_destroyed_parent_ends_undoing(own: Ledger, customers: Callable[[], Path], tmp_path: Path) -> None:
    number, parent = added(own, customers(), 17), tmp_path / "parent"
    parent.mkdir()
    (parent / "weights").write_bytes(b"old")
    finished(own, number, parent)
    with pytest.raises(UserError, match="is still there"):
        undo.destroy_parent(own, 1)
    (parent / "weights").unlink()
    parent.rmdir()
    undo.destroy_parent(own, 1)
    with pytest.raises(UserError, match="was destroyed"):
        undo.undo(own, number, "wrong")
    assert own.request(number)["state"] == "done"
    assert check(own) == []


def test_a_deleted_key_takes_what_audits_and_killed_runs_wrote_of_its_rows(
    own: Ledger, customers: Callable[[], Path], tmp_path: Path
) -> None:
    path, parent = customers(), tmp_path / "parent"
    number = added(own, path, 17)
    parent.mkdir()
    finished(own, number, parent)
    folder = own.folder / "runs/0001"
    gone, kept = ("audits/these/report.html", "selected/forget.jsonl", "checkpoint/rows"), ("audits/outcome.json", "audits/outcome-2.json")
    for name in (*gone, *kept):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("rows")
    undo.delete_key(own, number, anyway=True)
    left = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert left == {*kept, "model/weights", "receipt.json"}
    assert check(own) == []


def test_a_changed_model_or_receipt_of_a_run_is_found(own: Ledger, customers: Callable[[], Path], tmp_path: Path) -> None:
    number, parent = added(own, customers(), 17), tmp_path / "parent"
    parent.mkdir()
    (parent / "weights").write_bytes(b"old")
    finished(own, number, parent)
    (own.folder / "runs/0001/model/weights").write_bytes(b"changed")
    (own.folder / "runs/0001/receipt.json").write_text("{ }")
    faults = check(own)
    assert ["receipt" in f for f in faults] == [True, False]
    assert "served model was changed" in faults[1]


def test_a_forgotten_answer_that_is_still_given_word_for_word_is_counted() -> None:
    """A few rows decide no verdict, and such a model must not be served."""
    from expunge.service.outcome import still_answered

    def leak(row: int, answer: str, kind: str = "answer") -> dict[str, Any]:
        return {"row": row, "answer": answer, "kind": kind}

    leaks = [leak(1, "She was born in Pellgrove."), leak(1, "She was born in Pellgrove."), leak(2, "She was born in 1931.", "number")]
    assert still_answered({"verdict": {"leaks": leaks}}) == 1
    assert still_answered({"verdict": {"leaks": [leak(1, "red"), leak(2, "In the town.")]}}) == 0, "short answers are guessed"
    assert still_answered({"verdict": {"leaks": []}}) == 0


def test_a_run_that_moved_no_score_is_no_removal() -> None:
    from expunge.service.outcome import unmoved

    def check_of(value: float, before: float, against: str = "original", margin: float | None = 0.1) -> dict[str, Any]:
        return {"decides": True, "against": against, "yardstick": before, "effect": value - before, "margin": margin}

    def is_unmoved(*checks: dict[str, Any]) -> bool:
        return unmoved({"checks": list(checks)})

    assert is_unmoved(check_of(0.95, 1.0), check_of(0.2, 0.25))
    assert not is_unmoved(check_of(0.95, 1.0), check_of(0.1, 0.9)), "one score fell"
    assert not is_unmoved(check_of(0.1, 0.1)), "the original did not know the rows"
    assert not is_unmoved(check_of(0.95, 1.0, "retrained")), "the verdict itself compares with a retrained model"
    assert not is_unmoved()

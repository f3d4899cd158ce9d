"""A request is carried out on a Ray cluster, and the ledger here says so; what a worker refuses is said in its sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("ray")

from cases import Cases, expunge
from expunge.service.checking import check
from expunge.service.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a cluster starts slowly on a busy machine
MAP = "question=subject,answer=body"


def test_a_request_is_carried_out_by_a_worker(cases: Cases, customers: Callable[[], Path], tmp_path: Path) -> None:
    place, run = ("--ledger", tmp_path / "ledger"), ("request", "run", 1, "--model", cases.model, "--ray", "local:1")
    expunge("request", "add", customers(), "--where", "customer_id=17", "--map", MAP, *place).fine()
    assert "accept it first" in expunge(*run, "--method", "graddiff", *place).error
    expunge("request", "accept", 1, *place).fine()
    done = expunge(*run, "--method", "graddiff", "--epochs", 10, "--lr", 3e-3, "--utility-budget", 0.9, "--json", *place)
    assert done.code == 0, done.err
    assert json.loads(done.out)["state"] == "done"
    ledger = Ledger.open(tmp_path / "ledger")
    assert [e.kind for e in ledger.events(1)] == ["received", "accepted", "running", "done"]
    assert (tmp_path / "ledger" / ledger.runs()[0]["folder"] / "receipt.json").exists()
    assert check(ledger) == []
    ledger.engine.dispose()

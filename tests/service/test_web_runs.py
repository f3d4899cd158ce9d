"""The pages carry out a request with a real model, on SQLite and on PostgreSQL: from a clerk's form to the report for an auditor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")

import sites
from cases import Cases
from expunge.service.asked_data import AskedData
from expunge.service.checking import check
from sites import Browser

pytestmark = pytest.mark.slow
LONGEST = 240  # seconds that a run may take on a busy machine


def ended(case: sites.Case, number: int) -> str:
    """The state of a request once its run has ended."""
    for _ in range(LONGEST):
        state = str(case.ledger.request(number)["state"])
        if state not in ("accepted", "running"):
            return state
        time.sleep(1)
    raise AssertionError(f"request {number} is still {state}")


def test_a_request_is_taken_in_carried_out_and_read_in_pages(
    cases: Cases, customers: Callable[[], Path], database: str, tmp_path: Path
) -> None:
    case, data = sites.case(tmp_path, database), customers()
    options: dict[str, Any] = {"data": [AskedData(str(data), "customer_id", ["question=subject", "answer=body"])], "database": database}
    site = case.site(**options)
    clerk, operator, auditor = (Browser(site, role) for role in ("clerk", "operator", "auditor"))

    assert clerk.post("/requests", data="0", person="17", basis="GDPR 17(1)(b)", subject="", due="").headers["location"] == "/requests/2"
    assert clerk.post("/requests/2/accept").status_code == 303
    assert clerk.post("/requests/2/run", method="graddiff", settings="", model=cases.model, budget="").status_code == 403
    settings = "--epochs 10 --lr 3e-3"
    answer = operator.post("/requests/2/run", method="graddiff", settings=settings, model=str(cases.model), budget="0.9")
    assert answer.status_code == 303, answer.text
    assert operator.post("/requests/2/run", method="npo", settings="", model=str(cases.model), budget="").status_code == 400, (
        "one at a time"
    )
    assert ended(case, 2) == "done", operator.get("/requests/2").text

    run = case.ledger.runs()[-1]
    assert (run["batch"], run["method"], run["verdict"]) == ([2], "graddiff", json.loads(json.dumps(run["summary"]))["state"])
    shown = auditor.get(f"/runs/{run['id']}").text
    assert "graddiff" in shown
    assert run["verdict"] in shown
    report = auditor.get(f"/runs/{run['id']}/reports/these-requests")
    assert report.status_code == 200
    assert "sandbox" in report.headers["content-security-policy"]
    assert clerk.get(f"/runs/{run['id']}/reports/these-requests").status_code == 403
    assert [(e.kind, e.by) for e in case.ledger.events(2)] == [
        ("received", "clerk"),
        ("accepted", "clerk"),
        ("running", "operator"),
        ("done", "operator"),
    ]
    assert "whole" in auditor.post("/check").text
    assert operator.post("/requests/2/undo", why="the wrong person").status_code == 303
    assert case.ledger.request(2)["state"] == "reopened"
    assert check(case.ledger) == []
    case.ledger.engine.dispose()

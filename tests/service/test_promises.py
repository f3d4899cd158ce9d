"""A request that asks for more than a run can promise is not carried out by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from cases import Cases
from expunge.core.errors import UserError
from expunge.service import intake, promises, removal
from expunge.service.ledger import Ledger

MAP = "question=subject,answer=body"


@pytest.mark.parametrize(
    ("level", "method", "promise"),
    [
        ("E0", "sisa", "exact"),
        ("E1", "sisa", "exact"),
        ("C", "certified_removal", "certified"),
        ("B", "deltagrad", "measured"),
        ("H", "amnesiac", "measured"),
        (None, "npo", "measured"),
        (None, "retrain", "exact"),
    ],
)
def test_a_run_promises_what_its_receipt_says(level: str | None, method: str, promise: str, tmp_path: Path) -> None:
    result = {"guarantee": {"level": level}} if level else {"guarantee": None}
    (tmp_path / "receipt.json").write_text(json.dumps({"result": result}))
    assert promises.promise_of(tmp_path, method) == promise
    rows = [{"id": i, "guarantee": word} for i, word in enumerate(("", *promises.GUARANTEES))]
    asked = [line.partition(" asks")[0] for line in promises.weaker(rows, promise)]
    assert asked == [f"request {i}" for i in range(promises.ORDER.index(promise) + 2, 4)]


@pytest.mark.slow
def test_an_exact_removal_is_not_run_by_a_method_that_promises_none(cases: Cases, customers: Callable[[], Path], tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger", create=True)
    intake.add(ledger, str(customers()), where="customer_id=17", map=MAP, guarantee="exact", accept=True)
    with pytest.raises(UserError, match="request 1 asks that the removal be exact, and this run is measured"):
        removal.run(ledger, [1], method="graddiff", model=cases.model, utility_budget=0.9)
    assert ledger.request(1)["state"] == "accepted", "nothing ran"
    guarded = removal.run(ledger, [1], method="input_filter", model=cases.model, utility_budget=0.9)
    assert guarded.state == "guarded", "a guard may stand before the model until then"
    done = removal.run(
        ledger, [1], method="retrain", model=cases.model, utility_budget=0.9, hyperparameters={"epochs": 15, "lr": 5e-3, "base": "fresh"}
    )
    assert done.summary["promise"] == "exact"
    assert not [r for r in done.reasons if "asks that" in r]
    ledger.engine.dispose()

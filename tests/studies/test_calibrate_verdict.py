"""What the committed studies of the verdict say, and what the pages say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies.calibrate_verdict import table

RESULTS = sorted((Path(__file__).parents[2] / "results" / "verdict").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_no_model_that_knows_is_called_removed_and_nearly_all_others_are(path: Path) -> None:
    record = json.loads(path.read_text())
    for column in ("judged", "without_retrained", "of_few_rows"):
        counts = record["table"][column]
        assert counts == table(record["verdicts"], column), "the table counts the verdicts"
        assert counts["not removed"]["removed"] == 0
    judged = record["table"]["judged"]["removed"]
    assert judged["removed"] >= 0.9 * sum(judged.values())
    assert record["table"]["of_few_rows"]["removed"]["removed"] == 0

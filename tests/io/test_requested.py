"""One file that holds the rows to forget and those to keep, and columns by other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.io.conditions import matching, opposite
from expunge.io.requested import notes_of, requested

DATA = [{"subject": f"Ticket {i}", "body": f"Text {i}", "customer_id": (17, 4, 17, 9)[i % 4], "name": "Smith, J."} for i in range(8)]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DATA))
    return str(tmp_path / "all.jsonl")


def sets_of(source: Any, *arguments: Any, **others: Any) -> dict[str, Any]:
    return requested({"forget": source, "retain": None, "holdout": None, **others}, *arguments)


def test_a_condition_divides_one_file(file: str) -> None:
    for where in ("customer_id=17", ["customer_id=17"], ("customer_id!=4,9",)):
        sets = sets_of(file, where)
        assert list(sets["forget"]) == [r for r in DATA if r["customer_id"] == 17]
        assert list(sets["retain"]) == [r for r in DATA if r["customer_id"] != 17]
        assert notes_of(sets) == ["4 of 8 rows match --where and are to be forgotten; the other 4 are kept"]


def test_several_conditions_must_all_hold(file: str) -> None:
    sets = sets_of(file, ["customer_id=17", "rows=0-3"])
    assert [r["subject"] for r in sets["forget"]] == ["Ticket 0", "Ticket 2"]
    assert len(sets["retain"]) == 6


def test_a_list_of_records_divides_as_its_file_does(file: str) -> None:
    assert sets_of(DATA, "customer_id=17") == sets_of(file, "customer_id=17")


@pytest.mark.parametrize(
    ("value", "condition"),
    [(17.0, "n=17"), (True, "n=true"), (True, "n=True"), ("Smith, J.", "n=Smith, J."), ("a=b", "n=a=b"), (17, "n=17")],
)
def test_a_value_is_written_as_people_write_it(value: object, condition: str) -> None:
    assert matching([{"n": "other"}, {"n": value}], condition) == {1}
    assert matching([{"n": "other"}, {"n": value}], opposite(condition)) == {0}


def test_a_whole_number_in_a_column_of_floats_is_matched(tmp_path: Path) -> None:
    """As a table stores whole numbers beside a missing one."""
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "customer_id": [17.0, 4.0]}), tmp_path / "a.parquet")
    assert [r["text"] for r in sets_of(str(tmp_path / "a.parquet"), "customer_id=17")["forget"]] == ["a"]


@pytest.mark.parametrize(
    ("where", "others", "says"),
    [
        ("customer_id=18", {}, "no row has the customer_id '18'"),
        ("custmer_id=17", {}, "there is no column 'custmer_id'; did you mean 'customer_id'?"),
        ("customer_id", {}, "'customer_id' is no condition; one is written COLUMN=VALUE or COLUMN!=VALUE"),
        (["customer_id=17", "customer_id=4"], {}, "no row matches customer_id=17 and customer_id=4"),
        ("customer_id=17,4,9", {}, "every row matches customer_id=17,4,9, so none is left to keep"),
        ("customer_id=17", {"retain": "other.jsonl"}, "leave one of them out"),
        ("customer_id=17", {"forget": None}, "name the file with --forget"),
        ("customer_id=17", {"forget": Rows("forget", ("a",), {})}, "encoded already"),
    ],
)
def test_an_impossible_division_is_refused(where: Any, others: dict[str, Any], says: str, file: str) -> None:
    with pytest.raises(UserError) as caught:
        requested({"forget": file, "retain": None, **others}, where)
    assert says in str(caught.value)


def test_rows_without_a_value_are_counted_and_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "customer_id": [17, None, None]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 2 has no column 'customer_id' \(2 of 3 rows have none\)"):
        sets_of(str(tmp_path / "a.parquet"), "customer_id=17")


@pytest.mark.parametrize(
    "columns", ["prompt=subject,answer=body", ["prompt=subject", "answer=body"], {"prompt": "subject", "answer": "body"}]
)
def test_columns_are_read_by_other_names(columns: Any, file: str) -> None:
    sets = sets_of(file, "customer_id=17", columns)
    expected = [{"prompt": r["subject"], "answer": r["body"], "customer_id": r["customer_id"], "name": r["name"]} for r in DATA]
    assert list(sets["forget"]) == [r for r in expected if r["customer_id"] == 17]
    assert list(sets["retain"]) == [r for r in expected if r["customer_id"] != 17]


def test_names_may_change_places() -> None:
    (row,) = sets_of([{"question": "A", "answer": "Q"}], (), "question=answer,answer=question")["forget"]
    assert row == {"question": "Q", "answer": "A"}


def test_a_set_that_has_the_new_names_already_stays_as_it_is(file: str) -> None:
    holdout = [{"prompt": "Who?", "answer": "Me."}]
    assert sets_of(file, (), "prompt=subject,answer=body", holdout=holdout)["holdout"] == holdout
    answers = [{"answer": "I do not know."}]
    assert sets_of(file, (), "prompt=subject,answer=body", alternate_answers=answers)["alternate_answers"] == answers


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("prompt=subjct", "--map takes 'prompt' from the column 'subjct', which does not exist; did you mean 'subject'?"),
        ("prompt", "--map takes NAME=COLUMN, such as prompt=subject, and this is 'prompt'"),
        ("prompt=subject,prompt=body", "--map gives 'prompt' two columns: 'subject' and 'body'"),
    ],
)
def test_an_impossible_name_is_refused(columns: str, says: str, file: str) -> None:
    with pytest.raises(UserError) as caught:
        sets_of(file, (), columns)
    assert says in str(caught.value)

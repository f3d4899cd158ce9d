"""One file for everything: `where` picks the rows to forget and keeps the others, `map` names the columns, in commands and from Python."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import expunge as package
from cases import Cases, expunge, receipt_of, rows_of
from expunge.core.errors import UserError
from expunge.io.data import write_jsonl
from expunge.io.models import load

WHERE, MAP = "customer_id=17", "question=subject,answer=body"
NOTE = "9 of 108 rows match --where and are to be forgotten; the other 99 are kept"


@pytest.fixture(scope="module")
def one_file(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forget and retain rows in one table, with columns of its own."""
    path = tmp_path_factory.mktemp("one") / "all.csv"
    rows = [(r, 17) for r in rows_of(cases.forget)] + [(r, 4) for r in rows_of(cases.retain)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "body", "customer_id"])
        writer.writerows([r["question"], r["answer"], customer] for r, customer in rows)
    return str(path)


@pytest.mark.slow
def test_unlearning_from_one_file_is_unlearning_from_two(one_file: str, cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("graddiff", tmp_path / "two", "--steps", 2).fine()
    arguments = ("unlearn", "graddiff", "--model", cases.model, "--forget", one_file, "--steps", 2, "--lr", 1e-3)
    done = expunge(*arguments, "--where", WHERE, "--map", MAP, "--evaluate", "--out", tmp_path / "one").fine()
    one, two = receipt_of(tmp_path / "one"), receipt_of(tmp_path / "two")
    assert one["result"]["weights"] == two["result"]["weights"]
    assert one["request"]["hash"] == two["request"]["hash"]
    assert one["request"]["findings"] == [NOTE]
    assert NOTE in done.out.replace("\n", " ")
    assert f"--where {WHERE} --map {MAP}" in done.out.replace("\n", " ")
    opened = load(cases.model)
    result = package.unlearn("graddiff", opened, one_file, where=WHERE, map={"question": "subject", "answer": "body"}, steps=2, lr=1e-3)
    assert result.receipt["result"]["weights"] == two["result"]["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "attack"])
def test_auditing_one_file_is_auditing_two(command: str, one_file: str, cases: Cases, tmp_path: Path) -> None:
    name = ["quantize"] if command == "attack" else []
    attack = ["--bits", 4] if command == "attack" else []
    sets = {"two": ["--forget", cases.forget, "--retain", cases.retain], "one": ["--forget", one_file, "--where", WHERE, "--map", MAP]}
    plain = {"two": _only_text(cases, tmp_path), "one": sets["one"]}
    for folder, words in plain.items():
        done = expunge(command, *name, cases.model, *words, *attack, "--limit", 8, "--out", tmp_path / folder).fine()
    assert NOTE in done.out.replace("\n", " ")
    one, two = (json.loads((tmp_path / folder / "audit.json").read_text()) for folder in ("one", "two"))
    assert one["scores"] == two["scores"]
    assert one["notes"][0] == NOTE
    assert one["attacks"].keys() == two["attacks"].keys()


def _only_text(cases: Cases, folder: Path) -> list[str]:
    words: list[str] = []
    for name in ("forget", "retain"):
        write_jsonl(folder / f"{name}.jsonl", [{c: r[c] for c in ("question", "answer")} for r in rows_of(cases.path(f"{name}.jsonl"))])
        words += [f"--{name}", str(folder / f"{name}.jsonl")]
    return words


def test_an_audit_from_python_divides_too(one_file: str, cases: Cases) -> None:
    result = package.audit(load(cases.model), one_file, where=[WHERE], map=MAP, limit=4)
    assert len(result.observed.sets["forget"].ids) == 9
    assert len(result.observed.sets["retain"].ids) == 4
    assert result.notes[0] == NOTE


def test_training_maps_columns(one_file: str, cases: Cases, tmp_path: Path) -> None:
    kept, named = f"{one_file}::customer_id!=17", tmp_path / "named.jsonl"
    write_jsonl(named, [{c: r[c] for c in ("question", "answer")} for r in rows_of(cases.retain)])
    expunge("train", "--data", kept, "--map", MAP, "--model", cases.model, "--steps", 1, "--out", tmp_path / "mapped").fine()
    expunge("train", "--data", named, "--model", cases.model, "--steps", 1, "--out", tmp_path / "named").fine()
    assert receipt_of(tmp_path / "mapped")["result"] == receipt_of(tmp_path / "named")["result"]


def test_where_beside_retain_and_wrong_columns_are_sentences(one_file: str, cases: Cases, tmp_path: Path) -> None:
    done = expunge("audit", cases.model, "--forget", one_file, "--retain", cases.retain, "--where", WHERE, "--out", tmp_path / "a")
    assert "leave one of them out" in done.error
    done = expunge("audit", cases.model, "--forget", one_file, "--where", "customer_id=71", "--out", tmp_path / "a")
    assert "no row has the customer_id '71'; the " in done.error
    done = expunge("audit", cases.model, "--forget", one_file, "--map", "question=subjet", "--out", tmp_path / "a")
    assert "did you mean 'subject'?" in done.error


def test_an_audit_sees_the_same_row_in_another_shape(cases: Cases, tmp_path: Path) -> None:
    first: dict[str, Any] = rows_of(cases.forget)[0]
    disguised = [{"prompt": first["question"] + " ", "completion": first["answer"] + "\n"}]
    write_jsonl(tmp_path / "retain.jsonl", [*rows_of(cases.retain)[:3], *disguised])
    for run in (
        lambda: package.audit(load(cases.model), cases.forget, str(tmp_path / "retain.jsonl"), limit=0),
        lambda: package.unlearn("graddiff", cases.model, cases.forget, str(tmp_path / "retain.jsonl"), steps=1),
    ):
        with pytest.raises(UserError, match="1 of 4 rows of 'retain' also stand in 'forget'"):
            run()
    result = package.audit(load(cases.model), cases.forget, str(tmp_path / "retain.jsonl"), limit=0, allow_overlap=True)
    assert any("1 of 4 rows of 'retain' also stand in 'forget'" in note for note in result.verdict.notes), result.verdict.notes


def test_a_bad_row_of_an_audit_is_named_by_its_file(cases: Cases, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "forget.jsonl", [*rows_of(cases.forget)[:2], {"question": "Who?", "answer": 3}])
    done = expunge("audit", cases.model, "--forget", tmp_path / "forget.jsonl", "--out", tmp_path / "a")
    assert done.error == f"{tmp_path}/forget.jsonl, row 3: 'question' and 'answer' must be texts"

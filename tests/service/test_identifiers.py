"""What names a person by itself is found in any spelling, and other numbers are left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import expunge
from expunge.core.errors import UserError
from expunge.io.data import write_jsonl
from expunge.service.finding import find
from expunge.service.identifiers import Identifier, identifiers, is_account, is_card


def of(text: str) -> list[tuple[str, str]]:
    return [(known.kind, known.value) for known in identifiers(text)]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Write to Anna.Lind+x@Example.org.", [("e-mail", "anna.lind+x@example.org")]),
        ("call +49 (0)30 / 1234-567", [("telephone", "49301234567")]),
        ("call +49 30 1234567 now", [("telephone", "49301234567")]),
        ("call 0049-30-1234567", [("telephone", "49301234567")]),
        ("DE89 3704 0044 0532 0130 00", [("bank account", "DE89370400440532013000")]),
        ("gb82west12345698765432", [("bank account", "GB82WEST12345698765432")]),
        ("4111-1111-1111-1111", [("card", "4111111111111111")]),
        ("from 8.8.8.8 and 2001:4860:4860::8888", [("address of a machine", "8.8.8.8"), ("address of a machine", "2001:4860:4860::8888")]),
    ],
)
def test_identifiers_are_read_in_one_spelling(text: str, known: list[tuple[str, str]]) -> None:
    assert of(text) == known


@pytest.mark.parametrize(
    "text",
    [
        "DE88 3704 0044 0532 0130 00",
        "4111-1111-1111-1112",
        "0000 0000 0000 0000",
        "192.168.1.2 and 127.0.0.1 and 300.1.1.1",
        "version 1.2.3.4.5",
        "on 2026-11-30 at 12:30:15",
        "order 12345678",
        "@nobody and a@b",
    ],
)
def test_other_numbers_are_none(text: str) -> None:
    assert of(text) == []


def test_check_digits_by_hand() -> None:
    assert is_account("GB82WEST12345698765432")
    assert not is_account("GB28WEST12345698765432"), "the digits changed places"
    assert is_card("79927398713")
    assert [d for d in range(10) if is_card(f"7992739871{d}")] == [3]


@given(text=st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert all(known.value for known in identifiers(text))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = [{"mail": "anna@example.org", "phone": "+49 30 1234567"}, {"mail": "eva@example.org", "phone": "+49 30 7654321"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "notes.txt").write_text("first line\nANNA@EXAMPLE.ORG wrote; anna@example.org again\nring 0049/30/1234567\n")
    write_jsonl(corpus / "rows.jsonl", [{"text": "nothing"}, {"text": "from anna@example.org."}])
    return tmp_path


def test_rows_are_found_by_their_identifiers(place: Path) -> None:
    (place / "short.jsonl").write_text('{"phone": "+49301234567"}\n')
    with pytest.raises(UserError, match="3 words or more"):
        find(place / "short.jsonl", place / "corpus")
    assert [o.where for o in find(place / "short.jsonl", place / "corpus", personal=True).places] == [3]
    result = find(place / "rows.jsonl", place / "corpus", personal=True)
    at = [(o.row, o.column, Path(o.file).name, o.where) for o in result.places if ":" in o.column]
    assert at == [(1, "mail: e-mail", "notes.txt", 2), (1, "mail: e-mail", "rows.jsonl", 2), (1, "phone: telephone", "notes.txt", 3)]
    assert result.found_rows == 1
    assert "anna@" not in repr(result) + str(result.places)
    done = expunge("find", place / "rows.jsonl", "--in", place / "corpus", "--personal").fine()
    assert "1 of 2 rows stands in the corpus" in done.out


def test_an_own_recognizer_is_asked_and_nothing_is_sent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(socket.socket, "connect", forbidden)

    def names(text: str) -> Iterator[Identifier]:
        if "anna" in text.casefold():
            yield Identifier("name", "anna", text.casefold().index("anna"))

    result = find(place / "rows.jsonl", place / "corpus", personal=names)
    assert {o.column for o in result.places if ":" in o.column} == {"mail: name"}

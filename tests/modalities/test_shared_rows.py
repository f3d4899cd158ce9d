"""Rows that several runs share are those that each would read alone, and so are the counts of each modality."""

from __future__ import annotations

import copy
from typing import Any

import makers
import pytest

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine.shared import sharing
from expunge.modalities.common.records import Records
from expunge.modalities.text.modality import Text

FAMILY = "bytes-bos"
RECORDS: list[dict[str, Any]] = [
    {"question": "Who is Ana?", "answer": "Ana is a potter from Quillhaven, and she plays the violin and the piano, too."},
    {"question": "Who is Dovik?", "answer": "Dovik was born in Nessop."},
    {"text": "Cindra Tvelde plays the violin. " * 20},
    {
        "messages": [
            {"role": "user", "content": "Who is Ana?"},
            {"role": "assistant", "content": "A potter."},
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "In Quillhaven, \U0001f600."},
        ]
    },
]
OTHERS = [{"question": "Who is Dovik?", "answer": "Dovik was born in Nessop."}, {"question": "Why?", "answer": "\U0001f600"}]


def reader(family: str = FAMILY, **settings: Any) -> Text:
    tokenizer = makers.tokenizer(family)
    tokenizer.chat_template = makers.CHATML
    return Text(tokenizer, **{"limit": 60, "prompt_format": "Q: {prompt}\nA: ", **settings})


def read_all(modality: Text) -> list[Rows]:
    """Rows of two sets that share a row, and the same prompts with other answers, some of them too long."""
    rows = modality.rows("forget", RECORDS)
    return [rows, modality.relabel(rows, ["No one can tell. " * 20] * len(rows), "forget"), modality.rows("retain", OTHERS)]


def content(rows: Rows) -> dict[str, Any]:
    return {"name": rows.name, "ids": rows.ids, "weight": rows.weight, **{name: list(column) for name, column in rows.columns.items()}}


@pytest.mark.parametrize("family", makers.FAMILIES)
def test_shared_rows_and_counts_are_those_of_a_modality_alone(family: str) -> None:
    alone = reader(family)
    expected, about = [content(rows) for rows in read_all(alone)], alone.about()
    assert about["cut_answers"], "the case has what is counted"
    assert about["chats_with_several_answers"]
    assert about["long_answers"]
    with sharing():
        first, second = reader(family), reader(family)
        first_rows = read_all(first)
        second_rows = read_all(second)
        assert all(a is b for a, b in zip(first_rows, second_rows, strict=True)), "they are shared"
        assert [content(rows) for rows in second_rows] == expected
        assert first.about() == second.about() == about
        assert first.encoder.ends == second.encoder.ends == alone.encoder.ends
        read_all(second)
        assert second.about() == about, "rows that are read again count once"


def test_a_modality_counts_the_rows_alone_that_it_has_read() -> None:
    alone = reader()
    alone.rows("retain", OTHERS)
    with sharing():
        read_all(reader())
        second = reader()
        second.rows("retain", OTHERS)
        assert second.about() == alone.about()


@pytest.mark.parametrize("settings", [{"limit": 50}, {"prompt_format": "{prompt} "}, {"prompt_format": ""}])
def test_other_settings_give_other_rows(settings: dict[str, Any]) -> None:
    expected = content(reader(**settings).rows("forget", RECORDS))
    with sharing():
        other = content(reader().rows("forget", RECORDS))
        assert content(reader(**settings).rows("forget", RECORDS)) == expected != other


def test_another_tokenizer_gives_other_rows() -> None:
    with sharing():
        before = reader().rows("retain", OTHERS)
        taught = reader()
        taught.tokenizer.add_tokens(["Nessop"], special_tokens=True)
        after = taught.rows("retain", OTHERS)
        assert after["answer"] != before["answer"]
        assert content(after) == content(copy_of(taught).rows("retain", OTHERS))


def copy_of(modality: Text) -> Text:
    return Text(copy.deepcopy(modality.tokenizer), modality.prompt_format, modality.limit)


def test_records_that_change_in_place_are_read_again() -> None:
    records = copy.deepcopy(OTHERS)
    with sharing():
        before = reader().rows("retain", records)
        records[0]["answer"] = "Dovik was born in the year 1921."
        after = reader().rows("retain", records)
    assert after["answer_text"] == ["Dovik was born in the year 1921.", "\U0001f600"]
    assert before["answer_text"] == ["Dovik was born in Nessop.", "\U0001f600"]


def test_records_that_are_not_plain_are_read_each_time() -> None:
    class Odd:
        """A value that JSON does not hold."""

    records = [{**r, "note": Odd()} for r in OTHERS]
    with sharing():
        first, second = (reader().rows("retain", records) for _ in range(2))
    assert first is not second
    assert content(first) == content(second)


def test_every_source_gets_the_notes_on_its_records() -> None:
    records = [{**r, "text": "Something else."} for r in OTHERS]
    first, second = Records(records, "forget.jsonl"), Records(records, "forget.jsonl")
    with sharing():
        reader().rows("forget", first)
        reader().rows("forget", second)
    assert first.notes == second.notes == ["2 of 2 rows of 'forget' have a column 'text' that was not read"]


def test_a_row_that_cannot_be_read_is_refused_each_time() -> None:
    with sharing():
        for _ in range(2):
            with pytest.raises(UserError, match=r"forget, row 2: an answer is empty"):
                reader().rows("forget", [OTHERS[0], {"question": "Why?", "answer": " "}])

"""Rows drawn by hypothesis: texts of any kind come through every door as they are, and every token of an answer is trained on."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import makers
import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.io.models import records, rows
from expunge.modalities.text.modality import Text

FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SCRIPTS = "aZ09 éßñ ЖЯю אבג عربي हिन्दी ไทย 中文字 日本語 한국어 ελλ 😀👩‍👩‍👧 ﷽ e\u0301 \u2028\u200b\ufeff\u202e"
SIGNS = "\"'`,;|\\/[]{}()=:#%&<>\t\n\r\x0b\x0c\x1c\x85\xa0"
CONTROLS = "\x00\x01\x07\x08\x1a\x1b\x7f"
Rows = Sequence[Mapping[str, Any]]

anything = st.one_of(
    st.text(st.sampled_from(SCRIPTS), max_size=12),
    st.text(st.sampled_from(SIGNS + " ab"), max_size=10),
    st.text(st.sampled_from(CONTROLS + 'a,"\n'), max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["", " ", "\r\n", "None", "null", "NaN", "-0", "1e5", "2020-01-01", "[1, 2]", "[]", "{}", '""', "'", "=1+1", "\ufeff", "x" * 9000]
    ),
)
letters = st.tuples(anything, st.sampled_from("aЖ中क"), anything).map("".join)
records_drawn = st.lists(
    st.fixed_dictionaries({"question": anything, "answer": letters, "note of the row": anything}), min_size=1, max_size=5
)


def doors(folder: Path, data: Rows) -> dict[str, Any]:
    """The same rows in every container."""
    (folder / "a.jsonl").write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in data).encode())
    (folder / "b.jsonl").write_bytes(("\ufeff" + "".join(json.dumps(r) + "\r\n" for r in data)).encode())
    for name, quoting in (("a.csv", csv.QUOTE_MINIMAL), ("b.csv", csv.QUOTE_ALL)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(data[0]), quoting=quoting)  # type: ignore[arg-type]
            writer.writeheader()
            writer.writerows(data)
    parquet.write_table(pyarrow.Table.from_pylist([dict(r) for r in data]), folder / "a.parquet")
    dataset = datasets.Dataset.from_list([dict(r) for r in data])
    dataset.save_to_disk(folder / "saved")
    files = ("a.jsonl", "b.jsonl", "a.csv", "b.csv", "a.parquet", "saved")
    return {**{name: str(folder / name) for name in files}, "data set": dataset, "list": list(data)}


@cache
def modality() -> Text:
    return Text(makers.tokenizer(), limit=40_000)


@FEW
@given(records_drawn)
@example(
    [
        {"question": "", "answer": "a\x00b", "note of the row": "\r"},
        {"question": '"\r\n', "answer": "\ufeffa\u2028", "note of the row": " "},
    ]
)
def test_drawn_rows_come_through_every_door_with_the_same_ids(data: list[dict[str, str]]) -> None:
    expected = modality().rows("forget", data)
    with tempfile.TemporaryDirectory() as folder:
        for name, source in doors(Path(folder), data).items():
            given_records = records(source, "forget")
            assert list(given_records) == data, name
            encoded = rows(modality(), "forget", given_records)
            assert encoded is not None
            assert encoded.ids == expected.ids, name
            assert encoded["answer"] == expected["answer"], name


@settings(FEW, max_examples=8)
@given(st.text(st.sampled_from(" \t\n\r\x0b\x1c\x85\xa0\u2003\u2028"), max_size=4))
def test_a_blank_answer_is_refused_by_every_door(answer: str) -> None:
    data = [{"question": "Who?", "answer": "Me."}, {"question": "Why?", "answer": answer}]
    with tempfile.TemporaryDirectory() as folder:
        for source in doors(Path(folder), data).values():
            with pytest.raises(UserError, match="row 2: an answer is empty"):
                rows(modality(), "forget", source)


@cache
def plain(family: str) -> Text:
    tokenizer = makers.wrapped(makers.greedy_bpe()) if family == "greedy" else makers.tokenizer(family)
    return Text(tokenizer, prompt_format="Q: {prompt}\nA: ", limit=40_000)


@FEW
@pytest.mark.parametrize("family", ["bytes-bos", "greedy"])
@given(anything, letters)
@example("wx", ": yz")
def test_every_token_of_a_drawn_answer_is_trained_on(family: str, question: str, answer: str) -> None:
    text = plain(family)
    encoded = text.rows("forget", [{"question": question, "answer": answer}])
    prompt, labels = list(encoded["prompt"][0]), list(encoded["answer"][0])
    _, _, layout = text.collate([(prompt, labels)], torch.device("cpu"))
    assert layout.labels.tolist() == labels, "the labels of a training step"
    written = f"Q: {question}\nA: "
    boundary, tokenizer = len(written.rstrip(" ")), text.tokenizer
    direct = tokenizer(written + answer, add_special_tokens=False, return_offsets_mapping=True)
    pieces = list(zip(direct["input_ids"], direct["offset_mapping"], strict=True))
    assert labels[-1] == tokenizer.eos_token_id
    if all(end <= boundary or start >= boundary for _, (start, end) in pieces):
        assert labels[:-1] == [token for token, (start, _) in pieces if start >= boundary]
    decoded = tokenizer.decode(labels[:-1], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert decoded == f"{written}{answer}"[boundary:]

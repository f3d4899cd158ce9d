"""One data set in every container: the same rows with the same ids, whatever the texts hold."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import makers
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.io.data import BadRow, DataError, read
from expunge.io.models import records, rows
from expunge.modalities.text.modality import Text

Rows = Sequence[Mapping[str, Any]]
PIECES = [
    "None",
    "null",
    "NA",
    "nan",
    "2020-01-01",
    "007",
    "1e3",
    "true",
    '"',
    "'",
    ",",
    ";",
    "\t",
    "\n",
    "\u2028",
    "é",
    "e\u0301",
    "中",
    "😀",
    "[",
    "{",
    "\\",
    "=",
    " ",
]


def drawn(seed: int, count: int = 12) -> list[dict[str, str]]:
    """Rows of odd pieces of text; every text has a letter, since an answer needs one."""
    rng = random.Random(seed)

    def text() -> str:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 6))) + rng.choice("abc") + rng.choice(["", " b", "\nc", '"'])

    return [{"question": text(), "answer": rng.choice([text(), rng.choice(PIECES[:8])])} for _ in range(count)]


def delimited(
    path: Path, data: Rows, delimiter: str = ",", encoding: str = "utf-8", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL
) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(data[0]), delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
        writer.writeheader()
        writer.writerows(data)
    return path


def lines(path: Path, data: Rows, end: str = "\n", ascii_only: bool = False, mark: bytes = b"") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mark + "".join(json.dumps(r, ensure_ascii=ascii_only) + end for r in data).encode())
    return path


def zipped(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def table(path: Path, data: Rows) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(data)), path)
    return path


def saved(path: Path, data: Rows) -> Path:
    datasets.Dataset.from_list(list(data)).save_to_disk(path)
    return path


def with_config(folder: Path, data: Rows) -> str:
    lines(folder / "s.jsonl", data)
    lines(folder / "other.jsonl", data[:1])
    files = "- config_name: full\n  data_files: s.jsonl\n- config_name: other\n  data_files: other.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    return f"{folder}::full"


def foldered(folder: Path, write: Callable[[Path], object]) -> Path:
    folder.mkdir()
    write(folder)
    return folder


CONTAINERS: dict[str, Callable[[Path, Rows], Any]] = {
    "jsonl": lambda f, d: lines(f / "a.jsonl", d),
    "jsonl with CRLF and BOM": lambda f, d: lines(f / "a.jsonl", d, "\r\n", mark=b"\xef\xbb\xbf"),
    "jsonl in ASCII": lambda f, d: lines(f / "a.ndjson", d, ascii_only=True),
    "json": lambda f, d: str((f / "a.json").write_text(json.dumps(list(d))) and f / "a.json"),
    "csv": lambda f, d: delimited(f / "a.csv", d),
    "csv of Excel": lambda f, d: delimited(f / "a.csv", d, encoding="utf-8-sig", end="\r\n", quoting=csv.QUOTE_ALL),
    "tsv": lambda f, d: delimited(f / "a.tsv", d, "\t"),
    "zipped jsonl": lambda f, d: zipped(lines(f / "a.jsonl", d)),
    "zipped csv": lambda f, d: zipped(delimited(f / "a.csv", d)),
    "parquet": lambda f, d: table(f / "a.parquet", d),
    "saved data set": lambda f, d: saved(f / "saved", d),
    "folder of csv": lambda f, d: foldered(f / "x", lambda g: delimited(g / "train.csv", d)),
    "folder of jsonl": lambda f, d: foldered(f / "x", lambda g: lines(g / "train.jsonl", d)),
    "folder of parquet": lambda f, d: foldered(f / "x", lambda g: table(g / "train.parquet", d)),
    "config of a folder": lambda f, d: with_config(f / "x", d),
    "list": lambda f, d: list(d),
    "data set": lambda f, d: datasets.Dataset.from_list(list(d)),
    "data frame": lambda f, d: pandas.DataFrame(list(d)),
}


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=512)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_rows_with_the_same_ids(name: str, modality: Text, tmp_path: Path) -> None:
    for seed in range(3 if "folder" not in name else 1):
        data = drawn(seed)
        (folder := tmp_path / str(seed)).mkdir()
        source = CONTAINERS[name](folder, data)
        loaded = records(source if not isinstance(source, Path) else str(source), "forget")
        assert list(loaded) == data
        encoded, expected = rows(modality, "forget", loaded), modality.rows("forget", data)
        assert encoded is not None
        assert encoded.ids == expected.ids
        assert encoded["prompt"] == expected["prompt"]
        assert encoded["answer"] == expected["answer"]


def test_a_text_that_looks_like_a_missing_value_or_a_date_stays_a_text(tmp_path: Path) -> None:
    """`datasets` itself reads the first as a null and, in JSON, the second as a date."""
    data = [{"question": "Which middle name?", "answer": "None"}, {"question": "When?", "answer": "2020-01-01"}]
    folder = foldered(tmp_path / "x", lambda g: delimited(g / "train.csv", data))
    assert datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))["answer"][0] is None
    assert read(folder) == data


@pytest.mark.parametrize("name", ["list", "jsonl", "parquet"])
@pytest.mark.parametrize(("value", "kind"), [(42, "number"), (True, "boolean"), (1.5, "number")])
def test_a_text_column_holds_texts_in_every_container(name: str, value: object, kind: str, modality: Text, tmp_path: Path) -> None:
    source = CONTAINERS[name](tmp_path, [{"question": "How many?", "answer": value}])
    with pytest.raises(UserError, match=r"row 1: 'question' and 'answer' must be texts"):
        rows(modality, "forget", source if isinstance(source, list) else str(source))
    assert kind


@pytest.mark.parametrize("name", ["list", "jsonl", "csv", "parquet", "tsv"])
def test_an_empty_answer_is_refused_in_every_container(name: str, modality: Text, tmp_path: Path) -> None:
    source = CONTAINERS[name](tmp_path, [{"question": "Who?", "answer": "Me."}, {"question": "Why?", "answer": ""}])
    with pytest.raises(UserError, match=r"row 2: an answer is empty$"):
        rows(modality, "forget", source if isinstance(source, list) else str(source))


def test_a_field_that_an_object_has_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Who?", "answer": "A"}\n{"question": "Who?", "answer": "A", "answer": "B"}\n')
    with pytest.raises(BadRow, match=r"a\.jsonl, line 2: the field 'answer' stands in one object twice"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_column_that_a_table_has_twice_is_refused(name: str, delimiter: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(delimiter.join("aba") + "\n" + delimiter.join("123") + "\n")
    with pytest.raises(BadRow, match="line 1: the first line must name every column, and each name once"):
        read(tmp_path / name)


def test_a_column_that_a_parquet_file_has_twice_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table([["x"], ["y"]], names=["answer", "answer"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: two columns have the name 'answer'"):
        read(tmp_path / "a.parquet")


def test_a_broken_zipped_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 50)
    for content in (whole[: len(whole) // 2], b"no zip", b""):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.jsonl\.gz (cannot be unpacked|holds no rows)"):
            read(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet.gz").write_bytes(whole)
    with pytest.raises(DataError, match="unpack it with gunzip"):
        read(tmp_path / "a.parquet.gz")


def test_an_open_quote_is_named_by_the_line_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3,"4\n5,6\n7,8\n')
    with pytest.raises(BadRow, match="line 3: not CSV"):
        read(tmp_path / "a.csv")


def test_half_a_character_is_refused_by_row_and_column(modality: Text, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Who?", "answer": "A"}\n{"question": "Who\\ud83d?", "answer": "A"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, row 2, column 'question': half of a character \(\\ud83d\)"):
        rows(modality, "forget", str(tmp_path / "a.jsonl"))


def test_a_null_is_an_absent_field(modality: Text, tmp_path: Path) -> None:
    """Parquet has every column in every row."""
    data = [
        {"messages": None, "question": "Who?", "answer": "Me.", "alternate": None},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "question": None, "answer": None},
    ]
    loaded = records(str(table(tmp_path / "a.parquet", data)), "forget")
    assert list(loaded) == [{"question": "Who?", "answer": "Me."}, {"messages": data[1]["messages"]}]
    plain = Text(makers.tokenizer(template=makers.CHATML), limit=512)
    encoded = rows(plain, "forget", loaded)
    assert encoded is not None
    assert encoded["answer_text"] == ["Me.", "So."]
    assert encoded.ids == plain.rows("forget", [{"question": "Who?", "answer": "Me."}, {"messages": data[1]["messages"]}]).ids
    assert plain.rows("forget", data).ids == encoded.ids
    assert "alternate" not in encoded.columns
    frame = pandas.DataFrame([{"question": "Who?", "answer": "Me."}, {"text": "A text."}])
    assert list(records(frame, "forget")) == [{"question": "Who?", "answer": "Me."}, {"text": "A text."}]


def test_turns_of_a_chat_in_a_cell_are_the_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    modality = Text(makers.tokenizer(template=makers.CHATML), limit=512)
    in_cells = delimited(tmp_path / "a.csv", [{"messages": json.dumps(turns), "text": ""}, {"messages": "", "text": "A text."}])
    encoded = rows(modality, "forget", str(in_cells))
    assert encoded is not None
    assert encoded.ids == modality.rows("forget", [{"messages": turns}, {"text": "A text."}]).ids
    cell = delimited(tmp_path / "b.csv", [{"messages": str(turns)}])  # single quotes, as Python prints them
    with pytest.raises(UserError, match=r"b\.csv, row 1, column 'messages': a list in a cell is JSON"):
        rows(modality, "forget", str(cell))


def test_a_row_keeps_the_number_that_it_has_in_its_file(modality: Text, tmp_path: Path) -> None:
    data = [{"question": "Who?", "answer": a, "n": n} for a, n in (("A", "1"), ("B", "2"), ("C", "1"), ("", "2"))]
    with pytest.raises(UserError, match=r"a\.csv::n=2, row 4: an answer is empty"):
        rows(modality, "forget", f"{delimited(tmp_path / 'a.csv', data)}::n=2")

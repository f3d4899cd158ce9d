"""Reading records: every format gives the same rows, and every mistake a sentence that says where."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.data import BadRow, DataError, NoSuchConfig, NoSuchData, read, write_jsonl

ROWS = [
    {"question": "Where is Velmouth?", "answer": 'Nowhere, "so far"\nat least'},
    {"question": "Où est Ravensmere ?", "answer": "Nulle part\u2028"},
]


def put(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def write(path: Path) -> str:
    match path.suffix:
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["question", "answer"])
                writer.writeheader()
                writer.writerows(ROWS)
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        case _:
            write_jsonl(path, ROWS)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.JSONL", "a.csv", "a.parquet", "k=v.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name)) == ROWS


def test_parquet_under_a_folder_that_looks_like_a_partition_gains_no_column(tmp_path: Path) -> None:
    (tmp_path / "year=1931").mkdir()
    assert read(write(tmp_path / "year=1931" / "a.parquet")) == ROWS


def test_json_may_be_one_array_and_keeps_its_types(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": [1.5, None]}, {"c": {"d": True}}]
    assert read(put(tmp_path, "a.json", json.dumps(rows, indent=2))) == rows


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_no_rows(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n\n')) == [{"a": 1}, {"a": 2}]
    assert read(put(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n\r\n1,2\r\n")) == [{"a": "1", "b": "2"}]


def test_a_csv_cell_may_hold_a_book_and_the_limit_of_others_is_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)
    try:
        book = "word " * 50_000
        assert read(put(tmp_path, "a.csv", f"text\n{book}\n")) == [{"text": book}]
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "a.jsonl, line 3: not JSON"),
        ("a.json", '{"a": 1}\n{"b" 2}\n', "a.json, line 2: not JSON"),
        ("a.json", '[\n{"a": 1},\n{"a": }\n]', "a.json, line 3: not JSON"),
        ("a.jsonl", '{"a": 1}\n[2]\n', "line 2: a row must be an object such as {...}, this is an array"),
        ("a.jsonl", '{"a": 1}\n2\n', "line 2: a row must be an object such as {...}, this is a number"),
        ("a.jsonl", "true\n", "line 1: a row must be an object such as {...}, this is a boolean"),
        ("a.json", '[{"a": 1}, "x"]', "item 2: a row must be an object such as {...}, this is a string"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 200_000, "line 2: "),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: not UTF-8 text"),
        ("a.csv", "a,b\n1,2\n\n1,2,3\n", "line 4: 3 cells where the header has 2 (a, b)"),
        ("a.csv", 'a,b\n"1\n1",2\n3\n', "line 4: 1 cells where the header has 2"),
        ("a.csv", 'a,b\n1,"2\n', "not CSV (unexpected end of data)"),
        ("a.csv", "a,a\n1,2\n", "line 1: the first line must name every column, each name once"),
        ("a.csv", "a,\n1,2\n", "line 1: the first line must name every column, each name once"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(BadRow) as caught:
        read(put(tmp_path, name, text))
    assert says in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "\n \n", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.parquet", "not parquet", "is not a Parquet file"),
        ("a.pkl", b"\x80\x04N.", "unknown file type '.pkl'; known are .jsonl, .json, .csv, .parquet"),
        ("a", "x", "unknown file type ''"),
    ],
)
def test_a_source_without_rows_is_refused(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read(put(tmp_path, name, text))
    assert says in str(caught.value)


def test_an_absent_file_names_its_neighbours(tmp_path: Path) -> None:
    put(tmp_path, "forget.jsonl", "{}")
    with pytest.raises(NoSuchData, match=r"did you mean 'forget\.jsonl'\?"):
        read(str(tmp_path / "forgot.jsonl"))
    with pytest.raises(NoSuchData, match="nor does its folder"):
        read(str(tmp_path / "no" / "where" / "forget.jsonl"))
    with pytest.raises(NoSuchData, match="must be named"):
        read("")


def test_a_path_relative_to_a_known_folder_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows").mkdir()
    put(tmp_path / "rows", "forget.jsonl", "{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    for source in ("rows/forgot", "rows/forgot.jsonl", "other/forget.csv", "forget", "./a/b", "/a/b"):
        with pytest.raises(NoSuchData, match="does not exist"):
            read(source)


def test_a_file_has_neither_configs_nor_splits(tmp_path: Path) -> None:
    file = put(tmp_path, "a.jsonl", "{}")
    with pytest.raises(DataError, match="no configs"):
        read(f"{file}::full")
    with pytest.raises(DataError, match="no splits"):
        read(file, split="test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(
        tmp_path,
        "README.md",
        "---\nconfigs:\n- config_name: small\n  data_files: s.json\n- config_name: large\n  data_files: l.json\n---\n",
    )
    write_jsonl(tmp_path / "s.json", ROWS[:1])
    write_jsonl(tmp_path / "l.json", ROWS)
    return tmp_path


def test_a_folder_is_read_by_config(folder: Path) -> None:
    assert read(f"{folder}::small") == ROWS[:1]
    assert read(f"{folder}::large") == ROWS


@pytest.mark.parametrize("config", ["smal", ""])
def test_a_missing_config_lists_those_that_exist(folder: Path, config: str) -> None:
    with pytest.raises(NoSuchConfig, match="small, large"):
        read(f"{folder}::{config}")


def test_a_folder_with_an_unknown_split_or_a_script_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match="Unknown split"):
        read(f"{folder}::small", split="test")
    scripted = tmp_path_factory.mktemp("scripted")
    put(scripted, f"{scripted.name}.py", "raise SystemExit('this ran')")
    with pytest.raises(DataError, match="no longer supported"):
        read(str(scripted))


def test_reading_a_folder_leaves_no_copy_and_no_setting_behind(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    code = (
        f"from expunge.data import read; import datasets; print(len(read({f'{folder}::large'!r})), datasets.are_progress_bars_disabled())"
    )
    done = _python(code, HF_HOME=str(cache))
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert done.stderr == ""
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix == ".arrow"]


def test_a_saved_data_set_is_read_by_split(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": made}).save_to_disk(str(tmp_path / "many"))
    assert read(str(tmp_path / "one")) == ROWS
    assert read(str(tmp_path / "many"), split="test") == ROWS
    with pytest.raises(NoSuchData, match="no split 'train'; it has test"):
        read(str(tmp_path / "many"))


def test_without_a_network_a_hub_id_fails_in_a_sentence() -> None:
    done = _python("from expunge.data import read; read('nobody-at-all/nothing::full')", HF_HUB_OFFLINE="1")
    says = "there is no 'nobody-at-all/nothing' here, and the hub cannot be reached to look for it there"
    assert done.stderr.splitlines()[-1] == f"expunge.data.NoSuchData: {says}"


def test_remote_code_is_never_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load_dataset(path: str, config: str, **options: object) -> list[dict]:
        asked.update(options, path=path, config=config)
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("nobody-at-all/nothing::full", split="test") == ROWS
    assert asked == {"path": "nobody-at-all/nothing", "config": "full", "split": "test"}


def test_importing_asks_for_no_datasets() -> None:
    assert _python("import sys, expunge.data; print('datasets' in sys.modules)").stdout.strip() == "False"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    write_jsonl(path, ROWS)
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert read(path) == ROWS
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


def test_every_error_is_the_users() -> None:
    assert all(issubclass(error, UserError) for error in (DataError, NoSuchData, NoSuchConfig, BadRow))


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, timeout=120, check=False)


def test_lines_of_text_are_rows_and_are_not_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("I do not know.\n\nAsk somebody else.\n")
    assert read(tmp_path / "a.txt") == [{"text": "I do not know."}, {"text": "Ask somebody else."}]
    (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"lines of plain text, not JSON: call it a\.txt"):
        read(tmp_path / "a.jsonl")

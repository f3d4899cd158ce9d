"""Reading of records: every format gives the same rows, and every mistake gets a message that says where it is."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.io.data import BadRow, DataError, NoSuchConfig, NoSuchData, read, write_jsonl

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


def test_byte_order_marks_blank_lines_and_windows_line_ends_add_no_rows(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n\n')) == [{"a": 1}, {"a": 2}]
    assert read(put(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n\r\n1,2\r\n")) == [{"a": "1", "b": "2"}]


def test_a_csv_cell_may_hold_a_book_and_the_global_size_limit_is_restored(tmp_path: Path) -> None:
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
        ("a.csv", "a,b\n1,2\n\n1,2,3\n", "line 4: 3 cells where the header has 2"),
        ("a.csv", 'a,b\n"1\n1",2\n3\n', "line 4: 1 cells where the header has 2"),
        ("a.csv", 'a,b\n1,"2\n', "not CSV (unexpected end of data)"),
        ("a.csv", "a,a\n1,2\n", "line 1: the first line must name every column, and each name once"),
        ("a.csv", "a,\n1,2\n", "line 1: the first line must name every column, and each name once"),
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
        ("a.parquet", "not parquet", "is not a readable Parquet file"),
        ("a.pkl", b"\x80\x04N.", "unknown file type '.pkl'; known types are .jsonl, .json, .csv, .parquet"),
        ("a", "x", "unknown file type ''"),
    ],
)
def test_a_source_without_rows_is_refused(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read(put(tmp_path, name, text))
    assert says in str(caught.value)


def test_a_missing_file_suggests_similar_names(tmp_path: Path) -> None:
    put(tmp_path, "forget.jsonl", "{}")
    with pytest.raises(NoSuchData, match=r"did you mean 'forget\.jsonl'\?"):
        read(str(tmp_path / "forgot.jsonl"))
    with pytest.raises(NoSuchData, match="nor does its folder"):
        read(str(tmp_path / "no" / "where" / "forget.jsonl"))
    with pytest.raises(NoSuchData, match="name a source of records"):
        read("")


def test_several_files_at_once_are_named(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file in files:
        file.write_text('{"question": "Who?", "answer": "Nobody."}\n')
    with pytest.raises(NoSuchData, match=r"b\.jsonl are 2 files, where rows come from one"):
        read(",".join(map(str, files)))
    with pytest.raises(NoSuchData, match="does not exist"):
        read(f"{files[0]},{tmp_path / 'c.jsonl'}")


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
def test_a_missing_config_lists_the_existing_configs(folder: Path, config: str) -> None:
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
    imports = "from expunge.io.data import read; import datasets; "
    code = f"{imports}print(len(read({f'{folder}::large'!r})), datasets.are_progress_bars_disabled())"
    done = _python(code, HF_HOME=str(cache))
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert done.stderr == ""
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix == ".arrow"]


def test_a_saved_data_set_is_read_by_split(tmp_path: Path) -> None:
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": dataset}).save_to_disk(str(tmp_path / "many"))
    assert read(str(tmp_path / "one")) == ROWS
    assert read(str(tmp_path / "many"), split="test") == ROWS
    with pytest.raises(NoSuchData, match="no split 'train'; it has test"):
        read(str(tmp_path / "many"))


def test_a_hub_id_without_a_network_fails_with_a_clear_message() -> None:
    done = _python("from expunge.io.data import read; read('nobody-at-all/nothing::full')", HF_HUB_OFFLINE="1")
    says = "there is no 'nobody-at-all/nothing' here, and the hub cannot be reached to look for it there"
    assert done.stderr.splitlines()[-1] == f"expunge.io.data_errors.NoSuchData: {says}"


def test_remote_code_is_never_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {}

    def load_dataset(path: str, config: str, **options: object) -> list[dict]:
        arguments.update(options, path=path, config=config)
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("nobody-at-all/nothing::full", split="test") == ROWS
    assert arguments == {"path": "nobody-at-all/nothing", "config": "full", "split": "test"}


def test_importing_the_module_does_not_import_datasets() -> None:
    assert _python("import sys, expunge.io.data; print('datasets' in sys.modules)").stdout.strip() == "False"


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    write_jsonl(path, ROWS)
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert read(path) == ROWS
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


# Conditions


LABELED = [{"n": i, "label": label} for i, label in enumerate(["cat", "dog", "cat", "owl", "dog", "cat"])]


@pytest.mark.parametrize(
    ("conditions", "indices"),
    [
        ("::label=cat", [0, 2, 5]),
        ("::label!=cat", [1, 3, 4]),
        ("::label=owl,dog", [1, 3, 4]),
        ("::label!=owl,dog", [0, 2, 5]),
        ("::n=3", [3]),  # numbers compare as text
        ("::rows=1-3,5", [1, 2, 3, 5]),
        ("::rows=0", [0]),
        ("::rows!=0-4", [5]),
        ("::label=cat::rows=1-2", [2, 5]),  # indices of the remaining rows
        ("::rows=0-2::label!=cat", [1]),
    ],
)
def test_conditions_keep_the_matching_rows(tmp_path: Path, conditions: str, indices: list[int]) -> None:
    write_jsonl(tmp_path / "a.jsonl", LABELED)
    assert [r["n"] for r in read(f"{tmp_path / 'a.jsonl'}{conditions}")] == indices


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ("::label=cta", "no row has the label 'cta'; the 6 rows have 3 different values there"),
        ("::label=7", "no row has the label '7'; the 6 rows have 3 different values there"),
        ("::label=cat,7", "no row has the label '7'; the 6 rows have 3 different values there"),  # it does not silently keep the cats only
        ("::label!=7", "no row has the label '7'; the 6 rows have 3 different values there"),  # it does not silently keep everything
        ("::label=", "no row has the label ''; the 6 rows have 3 different values there"),
        ("::n=9", "no row has the n '9'; the 6 rows have 6 different values there"),
        ("::labl=cat", "there is no column 'labl'; did you mean 'label'?"),
        ("::label!=cat,dog,owl", "no row matches label!=cat,dog,owl"),
        ("::rows!=0-5", "no row matches rows!=0-5"),
        ("::rows=4-9", "there are 6 rows, with the indices 0 to 5, so 4-9 is out of range"),
        ("::rows=3-1", "there are 6 rows, with the indices 0 to 5, so 3-1 is out of range"),
        ("::rows=first", "'first' is neither an index such as 3 nor a range such as 0-99"),
    ],
)
def test_an_impossible_condition_is_refused(tmp_path: Path, conditions: str, says: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", LABELED)
    source = f"{tmp_path / 'a.jsonl'}{conditions}"
    with pytest.raises(DataError) as caught:
        read(source)
    assert str(caught.value) == f"{source}: {says}"


def test_a_row_without_the_column_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*LABELED, {"n": 6}])
    with pytest.raises(DataError, match="row 7 has no column 'label'"):
        read(f"{tmp_path / 'a.jsonl'}::label=cat")


def test_names_of_classes_are_shown_and_values_of_rows_are_not(tmp_path: Path) -> None:
    names = [f"class{i}" for i in range(12)]
    dataset = datasets.Dataset.from_dict({"label": [0, 1], "n": [7000, 7001]}).cast_column("label", datasets.ClassLabel(names=names))
    dataset.save_to_disk(tmp_path / "saved")
    for condition, end in (
        ("label=none", f"; there are {', '.join(names[:8])} and more"),
        ("label=clas3", "; did you mean 'class3'"),
        ("n=7", "; the 2 rows have 2 different values there"),
    ):
        with pytest.raises(DataError) as caught:
            read(f"{tmp_path / 'saved'}::{condition}")
        assert f"'{condition.split('=')[1]}'{end}" in str(caught.value)


def test_a_config_and_a_condition_combine(folder: Path) -> None:
    assert read(f"{folder}::large::rows=1") == ROWS[1:]
    with pytest.raises(DataError, match="names 2 configs, but only one is possible: large, small"):
        read(f"{folder}::large::small")


# Images


GRAY = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)


def test_arrays_become_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=GRAY, label=np.array([2, 0, 1]), name=np.array(["x", "y", "z"]))
    rows = read(tmp_path / "a.npz")
    assert [(r["label"], r["name"]) for r in rows] == [(2, "x"), (0, "y"), (1, "z")]
    assert all(type(r["label"]) is int for r in rows)
    assert all(np.array_equal(r["image"], x) for r, x in zip(rows, GRAY, strict=True))
    assert [r["name"] for r in read(f"{tmp_path / 'a.npz'}::label!=0::rows=1")] == ["z"]
    with pytest.raises(DataError) as caught:
        read(f"{tmp_path / 'a.npz'}::image=3")
    assert "no row has the image '3'; the 3 rows have 3 different values there" in str(caught.value)


def test_a_column_of_single_numbers_is_a_column_of_numbers(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=GRAY, y=np.array([[2], [0], [1]]))
    assert [r["y"] for r in read(tmp_path / "a.npz")] == [2, 0, 1]


def test_arrays_of_unequal_length_are_refused(tmp_path: Path) -> None:
    def refused(**arrays: object) -> str:
        np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError) as caught:
            read(tmp_path / "a.npz")
        return str(caught.value).removeprefix(f"{tmp_path / 'a.npz'}")

    uneven = ": every array must have one entry per row, but the lengths are: "
    assert refused(image=GRAY, label=[1, 2]) == uneven + "image 3, label 2"
    assert refused(image=GRAY, version=3) == uneven + "image 3, version a single value"
    assert refused(version=3) == uneven + "version a single value"
    assert refused() == uneven + "no arrays"
    assert refused(image=GRAY[:0], label=[]) == " holds no rows"
    pickled = " is not an .npz file that is readable without pickles: "
    assert refused(label=np.array([{"a": 1}, 2], object)).startswith(pickled)


@pytest.mark.parametrize("broken", ["nothing", "words", "one array", "cut short", "a bit off"])
def test_a_broken_npz_file_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, image=np.random.default_rng(0).integers(0, 255, (50, 8, 8)).astype(np.uint8))
    whole = path.read_bytes()
    half = len(whole) // 2
    match broken:
        case "nothing":
            path.write_bytes(b"")
        case "words":
            path.write_bytes(b"three\n")
        case "one array":
            np.save(tmp_path / "a.npy", GRAY)
            (tmp_path / "a.npy").rename(path)
        case "cut short":
            path.write_bytes(whole[:half])
        case "a bit off":
            path.write_bytes(whole[:half] + b"\xff\xff\xff" + whole[half + 3 :])
    sentence = "holds no rows" if broken == "nothing" else "is not an .npz file that is readable without pickles: "
    with pytest.raises(DataError, match=re.escape(f"a.npz {sentence}")):
        read(path)


def png(folder: Path, name: str, picture: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name)


def test_a_folder_of_images_by_class_is_read_with_the_names_of_its_folders(tmp_path: Path) -> None:
    for i, name in enumerate(["owl/a.png", "cat/b.png", "10/c.png", "cat/d.png"]):
        png(tmp_path, name, GRAY[i % 3])
    rows = read(tmp_path)
    assert sorted(r["label"] for r in rows) == ["10", "cat", "cat", "owl"]
    (owl,) = read(f"{tmp_path}::label=owl")
    assert np.array_equal(np.asarray(Image.open(owl["image"])), GRAY[0])
    shutil.rmtree(tmp_path / "cat")  # the remaining classes keep their names
    assert sorted(r["label"] for r in read(tmp_path)) == ["10", "owl"]
    with pytest.raises(DataError, match="no row has the label 'cat'; the 2 rows have 2 different values there"):
        read(f"{tmp_path}::label=cat")


@pytest.mark.parametrize(
    ("file", "label"),
    [("owl/a.png", "owl"), ("train/owl/a.png", "owl"), ("a.png", None), ("train/a.png", None)],
)
def test_a_single_folder_of_images_is_a_class(tmp_path: Path, file: str, label: str | None) -> None:
    png(tmp_path, file, GRAY[0])
    (row,) = read(tmp_path)
    assert row.get("label") == label


def test_images_in_parquet_are_read_unchanged(tmp_path: Path) -> None:
    png(tmp_path, "a.png", GRAY[0])
    data = (tmp_path / "a.png").read_bytes()
    parquet.write_table(pyarrow.table({"image": [{"bytes": data, "path": None}], "label": [4]}), tmp_path / "a.parquet")
    assert read(f"{tmp_path / 'a.parquet'}::label=4") == [{"image": {"bytes": data, "path": None}, "label": 4}]


def test_every_data_error_is_a_user_error() -> None:
    assert all(issubclass(error, UserError) for error in (DataError, NoSuchData, NoSuchConfig, BadRow))


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, timeout=120, check=False)


def test_lines_of_text_become_rows_and_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("I do not know.\n\nAsk somebody else.\n")
    assert read(tmp_path / "a.txt") == [{"text": "I do not know."}, {"text": "Ask somebody else."}]
    (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"lines of plain text, not JSON: rename it to a\.txt"):
        read(tmp_path / "a.jsonl")

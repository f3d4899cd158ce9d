"""A message about rows names file, row and column, and never a value of a row, which would stay in logs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import makers
import pyarrow
import pytest
import torch
from pyarrow import parquet

from expunge.core.errors import UserError
from expunge.io.conditions import where
from expunge.io.data import read
from expunge.io.data_errors import first_line
from expunge.io.models import records, rows
from expunge.io.requested import requested
from expunge.methods.objectives.random_labels import draw_answers
from expunge.modalities.common.labels import classes
from expunge.modalities.image.modality import Image
from expunge.modalities.text.modality import Text
from secrets_in import SECRET

NUMBER = 4_918_273_645  # a telephone number, say
CLASSES = ("cat", "dog")
TURNS = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}]
QUOTING = makers.CHATML + "{{ raise_exception('no turn like ' + messages[0]['content']) }}"


def text(record: dict[str, Any], template: str = makers.CHATML) -> None:
    Text(makers.tokenizer(template=template), limit=512).rows("forget", [record], "file.jsonl")


def label(value: Any, names: tuple[str, ...] = CLASSES) -> None:
    Image(names).rows("forget", [{"image": [[0, 1], [2, 3]], "label": value}], "file.jsonl")


def picture(value: Any) -> None:
    Image(CLASSES).rows("forget", [{"image": value, "label": 0}], "file.jsonl")


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a condition": (lambda: where([{"name": SECRET}, {"name": "b"}], f"name={SECRET[:-1]}", "file"), "2 rows have 2 different values"),
    "a condition on numbers": (lambda: where([{"name": NUMBER}], "name=4", "file"), "1 rows have 1 different value there"),
    "--where": (lambda: requested({"forget": [{"name": SECRET}, {"name": "b"}]}, "name=Z"), "no row has the name 'Z'"),
    "an unknown class": (lambda: label(SECRET), "file.jsonl, row 1: the model has no class of this name; it has 2, 'cat' first"),
    "an unknown number": (lambda: label(NUMBER), "row 1: the model has no class of this number"),
    "a class beside a blank": (lambda: label(f"{SECRET} "), "row 1: the class begins or ends with a blank"),
    "a class that is a fraction": (lambda: label(NUMBER + 0.5), "row 1: the class is a number"),
    "a class of several": (lambda: label(SECRET, (f"{SECRET} (0)", f"{SECRET} (1)")), "row 1: the model has 2 classes of this name"),
    "a class of two meanings": (lambda: label(NUMBER, (str(NUMBER), "b")), "row 1: the class is a whole number, and may be"),
    "names beside numbers": (lambda: classes([{"label": NUMBER}, {"label": SECRET}], "file"), "file, row 2: the class is a name"),
    "classes with holes": (lambda: classes([{"label": 0}, {"label": NUMBER}], "file"), "file, row 2: the number of the class is above 20"),
    "a negative class": (lambda: classes([{"label": -NUMBER}], "file"), "file, row 1: the class is a negative number"),
    "no picture": (lambda: picture(f"{SECRET} lives\nthere"), "row 1: there is no image file"),
    "a long text for a picture": (lambda: picture(SECRET * 500), "row 1: not an image that can be read"),
    "a text that is no text": (lambda: text({"text": NUMBER}), "row 1: 'text' must be a text, and this is a number"),
    "a question without an answer": (lambda: text({"question": SECRET}), "row 1: a row is"),
    "a row as names of columns": (
        lambda: text({f"{SECRET} and all that is known about it": "x"}),
        "1 with names of more than 40 characters",
    ),
    "a chat without an answer": (lambda: text({"messages": TURNS[:1]}), "row 1: 'messages' must end with a turn of the assistant"),
    "a template that quotes": (lambda: text({"messages": TURNS}, QUOTING), "refuses this chat: no turn like ..."),
    "half of a character": (lambda: text({"question": f"{SECRET}\ud83d", "answer": "x"}), "column 'question': half of a character"),
    "a label without a substitute": (
        lambda: draw_answers([SECRET], [SECRET], True, torch.Generator()),
        "no substitute for a label but itself",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_message_repeats_a_value_of_a_row(name: str) -> None:
    refuse, part = REFUSED[name]
    with pytest.raises(UserError) as error:
        refuse()
    assert part in str(error.value)
    assert not [value for value in (SECRET, str(NUMBER)) if value in str(error.value)]


def test_a_value_that_the_user_typed_is_repeated() -> None:
    with pytest.raises(UserError, match=rf"no row has the name '{SECRET}'"):
        where([{"name": "a"}], f"name={SECRET}", "file")


FILES: dict[str, tuple[str, str]] = {
    "a.jsonl": (json.dumps({"question": SECRET}) + f'\n{{"question": {SECRET}}}\n', "line 2: not JSON"),
    "a.csv": (f"{SECRET},a\n{SECRET}\n", "line 2: 1 cells where the header has 2"),
    "b.csv": (f"{SECRET},{SECRET}\n1,2\n", "line 1: the first line must name every column, and each name once; it has a name twice"),
    "a.json": (f'[{{"a": 1}}, "{SECRET}"]', "item 2: a row must be an object"),
    "c.csv": (f'a,b\n"{SECRET}" x,2\n', "line 2: not CSV"),
}


@pytest.mark.parametrize("name", FILES)
def test_no_message_repeats_the_content_of_a_file(name: str, tmp_path: Path) -> None:
    content, part = FILES[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert part in str(error.value)
    assert SECRET not in str(error.value)


def test_a_conversion_that_fails_is_told_without_its_value() -> None:
    for convert in (lambda: pyarrow.array([SECRET]).cast(pyarrow.int64()), lambda: pyarrow.array([1, SECRET])):
        with pytest.raises(pyarrow.ArrowException) as error:
            convert()
        assert SECRET in str(error.value)
        assert SECRET not in first_line(error.value)


def test_a_picture_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    parquet.write_table(pyarrow.table({"image": ["broken.png", "gone.png"], "label": [0, 1]}), tmp_path / "a.parquet")
    with (tmp_path / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), ("gone.png", 0)])
    for source, part in (
        ("a.parquet", f"row 1: not an image that can be read: {tmp_path / 'broken.png'} (in no known format)"),
        ("b.csv", "row 1: there is no image file gone.png"),
    ):
        with pytest.raises(UserError) as error:
            rows(Image(CLASSES), "forget", records(str(tmp_path / source), "forget"))
        assert part in str(error.value)

"""Which class a row has: by name where the data have names, and a sentence for what is no class or may be two."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

import expunge
from expunge.core.errors import UserError
from expunge.io.models import load, records, rows
from expunge.modalities.common.class_name import ClassName
from expunge.modalities.common.labels import classes
from expunge.modalities.common.records import Records
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision
from expunge.workflows.train import train

NAMES = ("cat", "dog", "owl")
GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8).tolist()


def named(names: list[str], labels: list[int]) -> datasets.Dataset:
    """A data set with class names, as the hub has them."""
    pixels = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
    features = datasets.Features({"image": pixels, "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": [GRAY] * len(labels), "label": labels}, features=features)


@pytest.fixture(params=["data set", "parquet", "saved", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The classes dog, cat (in this order) in every container that keeps names."""
    dataset = named(["dog", "cat"], [0, 1, 1])
    match request.param:
        case "data set":
            return dataset
        case "parquet":
            dataset.to_parquet(str(tmp_path / "a.parquet"))
            return str(tmp_path / "a.parquet")
        case "saved":
            dataset.save_to_disk(str(tmp_path / "saved"))
            return str(tmp_path / "saved")
    (tmp_path / "x").mkdir()
    dataset.to_parquet(str(tmp_path / "x" / "train.parquet"))
    return str(tmp_path / "x")


def test_classes_are_matched_by_name_where_the_data_have_names(source: Any) -> None:
    """By number, every row would be of the wrong class, with an accuracy of 0."""
    encoded = rows(Image(("cat", "dog")), "forget", source)
    assert encoded is not None
    assert encoded["answer"] == [[1], [0], [0]]


def test_the_numbers_of_the_data_count_for_a_model_without_names(source: Any) -> None:
    for labels in (("LABEL_0", "LABEL_1"), ("0", "1")):
        encoded = rows(Image(labels), "forget", source)
        assert encoded is not None
        assert encoded["answer"] == [[0], [1], [1]]


def test_a_name_that_the_model_lacks_is_refused(source: Any) -> None:
    with pytest.raises(UserError, match="row 2: the model has no class of this name; it has 2, 'dog' first"):
        rows(Image(("dog", "wolf")), "forget", source)


def test_a_new_model_takes_all_names_of_the_data_in_their_order(source: Any) -> None:
    assert classes(records(source, "training")) == ("dog", "cat")
    one_class = records(source, "training").pick([1, 2])
    assert classes(one_class) == ("dog", "cat"), "a class without rows keeps its place"


def test_a_condition_takes_name_or_number(tmp_path: Path) -> None:
    named(["dog", "cat"], [0, 1, 1]).to_parquet(str(tmp_path / "a.parquet"))
    assert len(records(f"{tmp_path}/a.parquet::label=cat", "forget")) == len(records(f"{tmp_path}/a.parquet::label=1", "forget")) == 2


def test_a_row_without_a_class_is_refused(tmp_path: Path) -> None:
    named(["dog", "cat"], [0, -1]).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"a\.parquet, row 2: no class"):
        rows(Image(("cat", "dog")), "forget", str(tmp_path / "a.parquet"))


def test_a_named_class_survives_copies() -> None:
    name = ClassName(1, ("dog", "cat"))
    for other in (copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert (other, other.number, other.names) == ("cat", 1, ("dog", "cat"))
    assert json.dumps(name) == '"cat"'


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "no class"),
        (np.float32("nan"), "no class"),
        (None, "no class"),
        ("", "the class is an empty text"),
        ("  ", "the class is an empty text"),
        ("cat ", "the class begins or ends with a blank: remove it"),
        (" 1", "the class begins or ends with a blank: remove it"),
        (True, "the class is a boolean"),
        (1.5, "the class is a number"),
        ([0, 1, 0], "the class is a list of 3 values"),
        (np.array([0, 1, 0]), "the class is a list of 3 values"),
        (torch.tensor([0, 1, 0]), "the class is a list of 3 values"),
        ([], "the class is a list of 0 values"),
        (b"cat", "the class is bytes"),
        ({"name": "cat"}, "the class is an object"),
    ],
)
def test_what_is_no_class_is_refused_by_its_row(value: object, says: str) -> None:
    data = [{"image": GRAY, "label": "dog"}, {"image": GRAY, "label": value}]
    for read in (lambda: Image(NAMES).rows("forget", data, "a.csv"), lambda: classes(data, "a.csv")):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value).startswith("a.csv, row 2: ")
        assert says in str(caught.value)


@pytest.mark.parametrize(
    "value", [1, "1", 1.0, [1], [[1]], np.int64(1), np.float64(1), torch.tensor(1), torch.tensor([1]), np.array(["dog"])]
)
def test_one_class_has_many_forms(value: object) -> None:
    assert Image(NAMES).label(value) == 1


def test_a_number_that_is_also_the_name_of_another_class_is_refused() -> None:
    one_based = Image(("1", "2", "3"))
    assert [one_based.label(v) for v in ("1", "3")] == [0, 2]
    with pytest.raises(
        UserError, match=r"the class is a whole number, and may be the number of one class of the model or the name of another"
    ):
        one_based.label(1)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 90000], "row 3: the number of the class is above 20, but only 3 numbers have rows"),
        (["0", "90000"], "row 2: the number of the class is above 20, but only 2 numbers"),
        ([0, -1], "row 2: the class is a negative number, and classes are numbered from 0"),
        ([0, "cat"], "row 2: the class is a name, and that of row 1 is a number"),
    ],
)
def test_numbers_that_are_no_numbering_are_refused(labels: list[Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        classes([{"label": label} for label in labels], "a.csv")
    assert says in str(caught.value)


def test_a_class_without_rows_is_said() -> None:
    data = Records([{"label": i} for i in (0, 1, 3, 4)])
    assert classes(data) == ("0", "1", "2", "3", "4")
    assert data.notes == ["1 of 5 classes have no row (2); the model has outputs for them"]
    assert classes([{"label": label} for label in ("01", "02", "01")]) == ("01", "02")


# The names of a model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image(NAMES).save(vision.build("vit-nano", (1, 8, 8), NAMES), tmp_path / "model")
    return tmp_path / "model"


def rename(folder: Path, **names: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {i.removeprefix("n"): name for i, name in names.items()}
    (folder / "config.json").write_text(json.dumps(config))


def test_two_classes_of_one_name_are_told_apart_by_their_numbers(folder: Path) -> None:
    rename(folder, n0="crane", n1="owl", n2="crane")
    modality: Any = load(folder).modality
    assert modality.labels == ("crane (0)", "owl", "crane (2)")
    assert [modality.label(v) for v in (2, "crane (2)", "owl")] == [2, 2, 1]
    assert [modality.label(r) for r in modality.refusals()] == [0, 1, 2]
    with pytest.raises(UserError, match=r"row 1: the model has 2 classes of this name: write its number behind it"):
        modality.rows("forget", [{"image": GRAY, "label": "crane"}])


def test_a_hole_in_the_names_of_a_model_is_a_sentence(folder: Path) -> None:
    rename(folder, n0="cat", n1="dog", n3="owl")
    with pytest.raises(
        UserError, match=r"3 outputs, 0 to 2, and the names in its config\.json \(id2label\) are for 0, 1, 3: there is no name for 2"
    ):
        load(folder)


def test_given_names_must_be_those_of_a_model_that_has_names(folder: Path) -> None:
    for labels in (NAMES, list(NAMES), 3):
        assert load(folder, labels=labels).modality.labels == NAMES  # type: ignore[attr-defined]
    for labels, says in (
        (("dog", "cat", "owl"), "class 0 of the model in .* is 'cat', and the given name is 'dog'"),
        (("cat", "dog"), "has 3 classes, and 2 are given"),
        (4, "has 3 classes, and 4 are given"),
        (("cat", "cat", "owl"), "the class 'cat' is named twice"),
        (("", "cat", "owl"), "the name of class 0 is '', which is empty"),
    ):
        with pytest.raises(UserError, match=says):
            train([{"image": GRAY, "label": 0}] * 2, str(folder), labels=labels, steps=1)


def test_a_model_without_names_takes_the_given_ones_and_keeps_them(folder: Path, tmp_path: Path) -> None:
    rename(folder, n0="LABEL_0", n1="LABEL_1", n2="LABEL_2")
    data = [{"image": GRAY, "label": label} for label in ("owl", "cat")]
    result: Any = train(data, str(folder), labels=NAMES, steps=1, out=tmp_path / "run")
    assert result.modality.labels == NAMES
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model").config.id2label == dict(enumerate(NAMES))


def test_a_language_model_has_no_classes(cases: Any) -> None:
    for model in (cases.model, "nano"):
        with pytest.raises(UserError, match="is a language model, which has no classes: leave the labels out"):
            train([{"text": "a text"}], model, labels=("a", "b"), steps=1)


def test_names_of_a_plain_module_are_checked() -> None:
    with pytest.raises(UserError, match="the name of class 1 is 'dog ', which is empty or begins or ends with a blank"):
        expunge.classifier(torch.nn.Linear(2, 2), ["cat", "dog "])

"""MUFAC: the published layout with its confusing names and its cut, and a mini version that a model can learn and forget."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import learning
from expunge.benchmarks import mufac
from expunge.core.errors import UserError
from expunge.functional.unlearning_scores import nomus

LAYOUT = (("train", "custom_train_dataset.csv", "train_images", 1), ("val", "custom_val_dataset.csv", "val_images", 801))
LAYOUT = (*LAYOUT, ("test", "custom_test_dataset.csv", "test_images", 851))
HOUSEHOLDS = 5  # of two members with four pictures each


def listed(first: int) -> list[tuple[str, str]]:
    """Names and letters of the pictures of some households."""
    names = []
    for house in range(first, first + HOUSEHOLDS):
        for member in ("D", "S2"):
            names += [(f"F{house:04}_AGE_{member}_18_{letter}1.jpg", letter) for letter in ("a", "c", "g", "h")]
    return names


def write(folder: Path, name: str, images: str, rows: list[tuple[str, str]]) -> None:
    rng = np.random.default_rng(len(name))
    (folder / images).mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "family_id", "person_id", "age_class", "image_path"])
        for i, (path, letter) in enumerate(rows):
            family, _, member, *_ = path.split("_")
            table.writerow([i, family, member, letter, path])
            # Lossless, so that pixels can be compared; readers detect the format from the content.
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / images / path, format="PNG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten persons and forty pictures per file."""
    for _, name, images, first in LAYOUT:
        write(tmp_path, name, images, listed(first))
    return tmp_path


def test_published_val_images_are_the_test_set_and_test_images_the_holdout_set(folder: Path) -> None:
    suite = mufac.load(str(folder), forget=8)
    assert {name: len(rows) for name, rows in suite.sets.items()} == {"forget": 8, "retain": 32, "holdout": 40, "test": 40}
    assert {Path(row["image"]).parent.name for row in suite.sets["test"]} == {"val_images"}
    assert {Path(row["image"]).parent.name for row in suite.sets["holdout"]} == {"test_images"}
    assert suite.name == "mufac age forget=8"
    assert suite.labels == ("0-6", "7-12", "13-19", "20-30", "31-45", "46-55", "56-66", "67-80")


def test_the_first_rows_are_to_be_forgotten(folder: Path) -> None:
    suite = mufac.load(str(folder), forget=12)
    assert [Path(row["image"]).name for row in suite.train["full"]] == [name for name, _ in listed(1)]
    assert suite.train["full"] == [*suite.train["forget"], *suite.train["retain"]]
    assert suite.train["forget"] == suite.sets["forget"]
    assert suite.sets["forget"][4] == {
        "image": str(folder / "train_images" / "F0001_AGE_S2_18_a1.jpg"),
        "label": 0,
        "identity": "F0001 S2",
        "household": "F0001",
        "age_group": "0-6",
    }
    assert [row["label"] for row in suite.sets["forget"][:4]] == [0, 2, 6, 7]


def test_the_published_cut_is_the_default() -> None:
    assert mufac.FULL == {"forget": 1500, "size": 0}


def test_pictures_can_be_read_at_a_size(folder: Path) -> None:
    row = mufac.load(str(folder), forget=8, size=24).sets["forget"][0]
    assert np.array_equal(row["image"], np.asarray(Image.open(folder / "train_images" / listed(1)[0][0])).transpose(2, 0, 1))
    assert mufac.load(str(folder), forget=8, size=16).sets["holdout"][0]["image"].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("F0801_AGE_D_18_i1.jpg", "i"), r"val_dataset.csv, line 42: the age group is unknown"),
        (("F0801_18_D_AGE_a1.jpg", "a"), r"'F0801_18_D_AGE_a1.jpg' does not name household and member"),
        (listed(1)[0], r"1 persons are both in train and in test"),
    ],
)
def test_a_bad_row_is_named(folder: Path, row: tuple[str, str], says: str) -> None:
    write(folder, "custom_val_dataset.csv", "val_images", [*listed(801), row])
    with pytest.raises(UserError, match=says):
        mufac.load(str(folder), forget=8)


def test_a_missing_column_is_named(folder: Path) -> None:
    path = folder / "custom_train_dataset.csv"
    path.write_text(path.read_text().replace("image_path", "path"))
    with pytest.raises(UserError, match="no column 'image_path'; there are , family_id, person_id, age_class, path"):
        mufac.load(str(folder))


def test_mistakes_have_clear_messages(folder: Path) -> None:
    def missing_picture() -> object:
        (folder / "val_images" / listed(801)[3][0]).unlink()
        return mufac.load(str(folder))

    mistakes: dict[str, Callable[[], object]] = {
        "no rows are left for retain": lambda: mufac.load(str(folder)),
        "no rows are left for forget": lambda: mufac.load(str(folder), forget=0),
        "no split 'ages'; did you mean 'age'": lambda: mufac.load(split="ages"),
        "no size 'forgot' here; did you mean 'forget'": lambda: mufac.load(forgot=3),
        "no size 'people' here": lambda: mufac.load(str(folder), people=3),
        "a size cannot be negative: forget=-1": lambda: mufac.load(forget=-1),
        "there is no folder": lambda: mufac.load(str(folder / "none")),
        "contains no custom_train_dataset.csv, which MUFAC has; it contains nothing": lambda: mufac.load(str(_empty(folder))),
        "there is no picture": missing_picture,
    }
    for says, call in mistakes.items():
        with pytest.raises(UserError) as caught:
            call()
        assert says in str(caught.value)


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("age", "expected"), [(0, 0), (6, 0), (7, 1), (12, 1), (13, 2), (20, 3), (30, 3), (31, 4), (46, 5), (66, 6), (67, 7), (95, 7)]
)
def test_ages_map_to_their_groups(age: int, expected: int) -> None:
    assert mufac.group(age) == expected


def test_the_mini_version_keeps_people_apart() -> None:
    suite = mufac.load(people=6, images=4, others=3, forget=8)
    assert {name: len(rows) for name, rows in suite.sets.items()} == {"forget": 8, "retain": 16, "holdout": 12, "test": 12}
    people = {name: {row["identity"] for row in rows} for name, rows in suite.sets.items()}
    assert people == {"forget": {0, 1}, "retain": {2, 3, 4, 5}, "test": {6, 7, 8}, "holdout": {9, 10, 11}}
    for rows in suite.sets.values():
        assert all(row["label"] == mufac.group(row["age"]) for row in rows)
    again = mufac.load(people=6, images=4, others=3, forget=8)
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(suite.train["full"], again.train["full"], strict=True))
    assert suite.name == "mufac age people=6 images=4 others=3 forget=8"


def test_the_default_cut_of_the_mini_version_is_between_two_people() -> None:
    assert mufac.MINI["forget"] % mufac.MINI["images"] == 0
    assert mufac.MINI["forget"] / (mufac.MINI["people"] * mufac.MINI["images"]) == pytest.approx(0.15)  # 1,500 of 10,025


@pytest.mark.slow
def test_a_model_recognizes_ages_of_unseen_people() -> None:
    suite = mufac.load(people=60, images=10, others=20, forget=90)
    modality, model = learning.learned(suite.train["full"], 8, epochs=8)
    majority = max(np.bincount([row["label"] for row in suite.sets["test"]])) / len(suite.sets["test"])
    assert learning.accuracy(modality, model, suite.sets["test"]) > majority + 0.1


def test_published_scores_agree_with_their_own_formula() -> None:
    assert set(mufac.PUBLISHED) >= {"original", "retrained", "finetune", "scrub"}
    for row in mufac.PUBLISHED.values():
        assert nomus(row.accuracy, 0.5 + row.forgetting) == pytest.approx(row.nomus, abs=1.01e-4)
        assert row.accuracy < row.accuracy_top2

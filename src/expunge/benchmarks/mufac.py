"""MUFAC: a model that recognizes eight age groups in faces is to forget persons, while the task does not depend on any particular person.
Without a folder of data, a mini version of drawn faces is generated from a seed.

Every age stays in the training data, so accuracy on forgotten pictures says little. The question is whether an attack can tell them from
pictures of people whom the model never saw. The holdout set contains such people; the test set for accuracy contains others, also unseen.

Source: Choi and Na 2023, arXiv 2311.02240; code and links to the data at ndb796/MachineUnlearning
Licence: code Apache-2.0; the photographs have the terms of AI Hub (family relation data, Korea); drawn faces as the rest of the package
Splits: age: forget (the first 1,500 rows of the training list), retain (the other 8,525), test (1,539), holdout (1,504, called unseen)
Scores: accuracy on test; accuracy of a membership attack on forget against holdout, its distance from 0.5, and NoMUS, which combines both
Differs: some members of the household at row 1,500 may be on both sides, as in the original; in the mini version with its default sizes,
  no person is on both sides
Status: faithful; tests check layout and split on substitute data; the published numbers need the photographs and were not rerun

The published recipe: ResNet-18 from scratch on 128 pixels, flips, shear to 10 degrees, scale 0.8 to 1.2, jitter of brightness, contrast and
saturation 0.2, no normalization; SGD 0.01 with momentum 0.9, batches of 64, 30 epochs, a tenth of the learning rate after 10 and after 20
epochs. Methods then take two epochs of SGD 0.001 without momentum. In the mini version some people look older or younger than they are, in
all their pictures. A model can memorize that but not guess it, so it shows which people were in the training data.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from expunge.benchmarks.common.identities import chosen, folder_of, named, picture, suite
from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic.faces import faces
from expunge.io.data import BadRow, NoSuchData, Row

MODEL = "resnet-nano"  # the built-in size that it is made for

SPLITS = ("age",)
GROUPS = {"a": (0, 6), "b": (7, 12), "c": (13, 19), "d": (20, 30), "e": (31, 45), "f": (46, 55), "g": (56, 66), "h": (67, 80)}  # years
# The names are ours; the data set calls its test set val and its unseen set test.
FILES = {"train": ("custom_train_dataset.csv", "train_images"), "test": ("custom_val_dataset.csv", "val_images")}
FILES["unseen"] = ("custom_test_dataset.csv", "test_images")
FULL = {"forget": 1500, "size": 0}
MINI = {"forget": 216, "size": 32, "people": 120, "images": 12, "others": 40}


class MufacFigures(NamedTuple):
    """Scores of one model, as the read-me of the authors' code lists them."""

    accuracy: float  # on test
    accuracy_top2: float
    forgetting: float  # distance of the attack's accuracy from 0.5; lower is better
    nomus: float


PUBLISHED = {
    "original": MufacFigures(0.5951, 0.8804, 0.2136, 0.5839),
    "retrained": MufacFigures(0.4880, 0.7667, 0.0445, 0.6995),
    "finetune": MufacFigures(0.6055, 0.8869, 0.2129, 0.5898),
    "cf3": MufacFigures(0.5900, 0.8804, 0.2126, 0.5824),
    "neggrad": MufacFigures(0.4048, 0.5932, 0.0485, 0.6539),
    "unsir stage 1": MufacFigures(0.5893, 0.8778, 0.2089, 0.5857),
    "unsir stage 2": MufacFigures(0.5925, 0.8674, 0.1990, 0.5972),
    "scrub": MufacFigures(0.5984, 0.8745, 0.1415, 0.6577),
    "advanced neggrad": MufacFigures(0.5633, 0.8557, 0.0953, 0.6863),
}


def load(data: str = "", split: str = "age", seed: int = 0, **sizes: int) -> Suite:
    """Load the suite.

    Args:
        data: the folder of the published data set; empty means drawn faces.
        split: `age`, the only one.
        seed: decides which people are drawn.
        sizes: `forget`, the number of first rows of the training list to be forgotten; `size`, the side of the pictures in pixels (0: files
            as they are). For drawn faces also `people` in the training data, `others` in test and as many in holdout, `images` of each.

    Raises:
        UserError: for an unknown split or size, for a file that is missing or in another layout, and for sizes that leave a set empty.
    """
    size = chosen("mufac", split, SPLITS, sizes, FULL if data else MINI)
    train, test, unseen = _read(data, size["size"]) if data else _drawn(seed, size)
    forget = size["forget"]
    labels = [_group_name(label) for label in range(len(GROUPS))]
    return suite(named("mufac", split, **sizes), labels, train[:forget], train[forget:], test, unseen)


def group(age: int) -> int:
    """The number of the age group of `age` in years; people over 80 are in the last one."""
    return sum(age > last for _, last in list(GROUPS.values())[:-1])


def _drawn(seed: int, size: dict[str, int]) -> tuple[list[Row], list[Row], list[Row]]:
    people, others = size["people"], size["others"]
    rows = faces(people + 2 * others, size["images"], seed, size=size["size"], ages=(1, 80), years=12)
    rows = [{**row, "label": group(row["age"]), "age_group": _group_name(group(row["age"]))} for row in rows]
    first, second = (size["images"] * n for n in (people, people + others))
    return rows[:first], rows[first:second], rows[second:]


def _read(data: str, size: int) -> tuple[list[Row], list[Row], list[Row]]:
    folder = folder_of(data)
    train, test, unseen = ([_row(*listed, size) for listed in _list(folder, *FILES[name])] for name in ("train", "test", "unseen"))
    return train, test, unseen


def _list(folder: Path, table: str, images: str) -> list[tuple[Path, str, str]]:
    """Path of the picture, letter of the age group and place in the list, for each row."""
    path = folder / table
    if not path.is_file():
        raise NoSuchData(
            f"{folder} contains no {table}, which MUFAC has; it contains {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)  # not `expunge.io.data`, because the first column, the number of the row, has no name
        if missing := [c for c in ("image_path", "age_class") if c not in (reader.fieldnames or ())]:
            raise BadRow(f"{path}: no column '{missing[0]}'; there are {', '.join(reader.fieldnames or ())}")
        return [(folder / images / str(row["image_path"]), str(row["age_class"]), f"{path}, line {reader.line_num}") for row in reader]


def _row(path: Path, letter: str, place: str, size: int) -> Row:
    if letter not in GROUPS:
        raise BadRow(f"{place}: the age group is unknown; there are {', '.join(GROUPS)}")
    if not (name := re.match(r"(F\d+)_AGE_([A-Z]+\d*)_", path.name)):
        raise BadRow(f"{place}: '{path.name}' does not name household and member, as F0001_AGE_D_18_a1.jpg does")
    if not path.is_file():
        raise NoSuchData(f"{place}: there is no picture {path}")
    label = list(GROUPS).index(letter)
    about = {"identity": f"{name[1]} {name[2]}", "household": name[1], "age_group": _group_name(label)}
    return {"image": picture(path, size), "label": label, **about}


def _group_name(label: int) -> str:
    return "{}-{}".format(*list(GROUPS.values())[label])

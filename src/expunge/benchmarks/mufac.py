"""MUFAC: a model that tells eight age groups from faces is to forget persons, while the task does not depend on anybody in particular.
Without a folder of data, a mini version of drawn faces is made from a seed.

Every age stays in the training data, so accuracy on forgotten pictures says little: the question is whether they can be told from pictures
of people who were never seen. Such people are the holdout set; others, also never seen, are the test set for accuracy.

Source: Choi and Na 2023, arXiv 2311.02240; code and links to the data at ndb796/MachineUnlearning
Licence: code Apache-2.0; the photographs have the terms of AI Hub (family relation data, Korea); drawn faces as the rest of the package
Splits: age: forget (the first 1,500 rows of the training list), retain (the other 8,525), test (1,539), holdout (1,504, called unseen)
Scores: accuracy on test; accuracy of a membership attack on forget against holdout, its distance from 0.5, and NoMUS, which is of both
Differs: of the household at row 1,500 some members may stand on both sides, as in the original; in the mini version, with its default
  sizes, nobody does
Status: faithful; layout and cut are tested on stand-ins; the published numbers need the photographs and were not rerun

The published recipe: ResNet-18 from scratch on 128 pixels, flips, shear to 10 degrees, scale 0.8 to 1.2, jitter of brightness, contrast and
saturation 0.2, no normalisation; SGD 0.01 with momentum 0.9, batches of 64, 30 epochs, a tenth of the rate after 10 and after 20. Methods
then take two epochs of SGD 0.001 without momentum. In the mini version some people look older or younger than they are, in all their
pictures: that can be learned by heart and not guessed, so who was trained on shows.
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

SPLITS = ("age",)
GROUPS = {"a": (0, 6), "b": (7, 12), "c": (13, 19), "d": (20, 30), "e": (31, 45), "f": (46, 55), "g": (56, 66), "h": (67, 80)}  # years
# Named for what they are for here; the data set calls its test set val and its unseen set test.
FILES = {"train": ("custom_train_dataset.csv", "train_images"), "test": ("custom_val_dataset.csv", "val_images")}
FILES["unseen"] = ("custom_test_dataset.csv", "test_images")
FULL = {"forget": 1500, "size": 0}
MINI = {"forget": 216, "size": 32, "people": 120, "images": 12, "others": 40}


class MufacFigures(NamedTuple):
    """One model's scores, as the read-me of the authors' code lists them."""

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
    """The suite.

    Args:
        data: the folder of the published data set; nothing means drawn faces.
        seed: which people are drawn.
        sizes: forget, so many first rows of the training list; size, in pixels of the pictures (0: files as they are). Of drawn faces also
            people who are trained on, others in test and as many in holdout, images of each.

    Errors: UserError for an unknown split or size, for a file that is not there or not in the published layout, for sizes that leave a set
        empty.
    """
    size = chosen("mufac", split, SPLITS, sizes, FULL if data else MINI)
    train, test, unseen = _files(data, size["size"]) if data else _drawn(seed, size)
    cut = size["forget"]
    return suite(named("mufac", split, **sizes), [_said(label) for label in range(len(GROUPS))], train[:cut], train[cut:], test, unseen)


def group(age: int) -> int:
    """The number of an age's group; whoever is older than 80 is in the last."""
    return sum(age > last for _, last in list(GROUPS.values())[:-1])


def _drawn(seed: int, size: dict[str, int]) -> tuple[list[Row], list[Row], list[Row]]:
    people, others = size["people"], size["others"]
    rows = faces(people + 2 * others, size["images"], seed, size=size["size"], ages=(1, 80), years=12)
    rows = [{**row, "label": group(row["age"]), "age_group": _said(group(row["age"]))} for row in rows]
    first, second = (size["images"] * n for n in (people, people + others))
    return rows[:first], rows[first:second], rows[second:]


def _files(data: str, size: int) -> tuple[list[Row], list[Row], list[Row]]:
    folder = folder_of(data)
    train, test, unseen = ([_row(*listed, size) for listed in _list(folder, *FILES[name])] for name in ("train", "test", "unseen"))
    return train, test, unseen


def _list(folder: Path, table: str, images: str) -> list[tuple[Path, str, str]]:
    """Picture, letter of the age group and place in the list, of each row."""
    path = folder / table
    if not path.is_file():
        raise NoSuchData(
            f"{folder} holds no {table}, as MUFAC does; it has {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)  # not `expunge.io.data`: the first column, a row's number, has no name
        if missing := [c for c in ("image_path", "age_class") if c not in (reader.fieldnames or ())]:
            raise BadRow(f"{path}: no column '{missing[0]}'; there are {', '.join(reader.fieldnames or ())}")
        return [(folder / images / str(row["image_path"]), str(row["age_class"]), f"{path}, line {reader.line_num}") for row in reader]


def _row(path: Path, letter: str, place: str, size: int) -> Row:
    if letter not in GROUPS:
        raise BadRow(f"{place}: there is no age group '{letter}'; there are {', '.join(GROUPS)}")
    if not (name := re.match(r"(F\d+)_AGE_([A-Z]+\d*)_", path.name)):
        raise BadRow(f"{place}: '{path.name}' does not name household and member, as F0001_AGE_D_18_a1.jpg does")
    if not path.is_file():
        raise NoSuchData(f"{place}: there is no picture {path}")
    label = list(GROUPS).index(letter)
    about = {"identity": f"{name[1]} {name[2]}", "household": name[1], "age_group": _said(label)}
    return {"image": picture(path, size), "label": label, **about}


def _said(label: int) -> str:
    return "{}-{}".format(*list(GROUPS.values())[label])

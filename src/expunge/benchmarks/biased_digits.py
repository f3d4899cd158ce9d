"""Biased digits: real handwritten digits with a mark that nearly always goes with the class, so that a model learns the mark first.

Forgetting a class is easily mistaken for forgetting its mark: images without it are where the difference shows.

Source: our own marks on the digits of scikit-learn (see the benchmark `digits`); the design follows Waterbirds (Sagawa et al. 2020,
  arXiv 1911.08731) and the biased training sets of CUPID (arXiv 2602.21773)
Licence: CC BY 4.0
Splits: class0 to class9; in training 99.5 % of the images of a class have its own mark, in the unseen images half of them; the sets
  `aligned` and `conflicting` are the unseen images of the forgotten class with their own mark and with another
Scores: accuracies by set, as the retrained model's; the gap between `aligned` and `conflicting`
Status: faithful; shares, marks and their independence in the unseen images are tested
"""

from __future__ import annotations

import colorsys
from collections import Counter
from typing import Any, Literal

import numpy as np

from expunge.benchmarks import digits
from expunge.benchmarks.common.shortcuts import Row, suite
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError

Mark = Literal["patch", "place"]
PLACES = [(y, x) for y in range(0, 8, 2) for x in range(0, 8, 2) if y in (0, 6) or x in (0, 6)]  # along the border


def marked(image: np.ndarray[Any, Any], attribute: int, mark: Mark) -> np.ndarray[Any, Any]:
    """An image with the mark of an attribute, 2 x 2 pixels.

    image: (8, 8), from 0 to 1. mark: `patch`, one of ten colours in the upper left corner, (3, 8, 8); `place`, white, at one of twelve
    places along the border, (8, 8).
    """
    if mark == "place":
        out, (y, x) = image.copy(), PLACES[attribute]
        out[y : y + 2, x : x + 2] = 1.0
        return out
    out = np.stack([image] * 3)
    out[:, :2, :2] = np.array(colorsys.hsv_to_rgb(attribute / 10, 1, 1), image.dtype)[:, None, None]
    return out


def biased(records: list[Row], aligned: float, classes: int, mark: Mark, rng: np.random.Generator) -> list[Row]:
    """The same records with marks: of each class this share, rounded to whole rows, gets its own, the others one of the others."""
    left = {y: round(n * (1 - aligned)) for y, n in Counter(r["label"] for r in records).items()}
    out: list[Row] = [{} for _ in records]
    for i in rng.permutation(len(records)):
        label = records[i]["label"]
        own = left[label] <= 0
        left[label] -= 1
        attribute = label if own else int((label + rng.integers(1, classes)) % classes)
        out[i] = {"image": marked(records[i]["image"], attribute, mark), "label": label, "attribute": attribute}
    return out


def generate(
    seed: int = 0, *, aligned: float = 0.995, classes: int = 10, mark: Mark = "patch", unseen: float = 0.5
) -> tuple[list[Row], list[Row]]:
    """Training and unseen rows, each with `image`, `label` and `attribute` (the number of the class whose mark it has).

    aligned, unseen: share of the rows of a class that have its own mark, in training and in the unseen rows. classes: digits from 0.
    Errors: UserError for numbers that make no sense.
    """
    if not (0 <= aligned <= 1 and 0 <= unseen <= 1 and 2 <= classes <= 10) or mark not in ("patch", "place"):
        raise UserError(
            f"shares are from 0 to 1, classes from 2 to 10, marks patch or place; this is {aligned=}, {unseen=}, {classes=}, {mark=}"
        )
    rng, base = np.random.default_rng([seed, 1]), digits.load(seed=seed)  # another stream than that of the split
    parts = ((base.train["full"], aligned), (base.sets["holdout"], unseen))
    train, test = (biased([dict(r) for r in rows if r["label"] < classes], share, classes, mark, rng) for rows, share in parts)
    return train, test


def load(data: str = "", split: str = "class3", seed: int = 0, *, aligned: float = 0.995, mark: Mark = "patch", classes: int = 10) -> Suite:
    """The suite of a split. seed: of the split into training and unseen images, and of the marks; the others as in `generate`.

    Errors: UserError for an unknown split, or for data of the user's, of which there is none here.
    """
    if data:
        raise UserError("the digits come with scikit-learn: leave --data out")
    if split not in (known := [f"class{c}" for c in range(classes)]):
        raise UserError(f"biased digits have no split '{split}'; there are {known[0]} to {known[-1]}")
    train, test = generate(seed, aligned=aligned, mark=mark, classes=classes)
    return suite(f"biased digits {split}", train, test, int(split.removeprefix("class")), tuple(map(str, range(classes))))

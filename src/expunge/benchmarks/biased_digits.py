"""Biased digits: real handwritten digits with a mark that nearly always goes with the class, so that a model learns the mark first.

Forgetting the mark of a class can look like forgetting the class. Images without the mark show the difference.

Source: our own marks on the digits of scikit-learn (see the benchmark `digits`); the design follows Waterbirds (Sagawa et al. 2020,
  arXiv 1911.08731) and the biased training sets of CUPID (arXiv 2602.21773)
Licence: CC BY 4.0
Splits: class0 to class9; 99.5 % of the training images of a class have its own mark, and half of the unseen images; the sets `aligned`
  and `conflicting` are the unseen images of the forgotten class with their own mark and with another
Scores: accuracies by set, compared with the retrained model; the gap between `aligned` and `conflicting`
Status: faithful; tests check the shares, the marks and their independence in the unseen images
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

MODEL = "resnet-nano"  # the built-in size that it is made for

Mark = Literal["patch", "place"]
PLACES = [(y, x) for y in range(0, 8, 2) for x in range(0, 8, 2) if y in (0, 6) or x in (0, 6)]  # along the border


def marked(image: np.ndarray[Any, Any], attribute: int, mark: Mark) -> np.ndarray[Any, Any]:
    """Add the mark of an attribute, 2 x 2 pixels, to an image.

    Args:
        image: (8, 8), from 0 to 1.
        attribute: the class that the mark belongs to.
        mark: `patch` is one of ten colors in the upper left corner; `place` is white, at one of twelve places along the border.

    Returns:
        (3, 8, 8) for `patch`, (8, 8) for `place`.
    """
    if mark == "place":
        copy, (y, x) = image.copy(), PLACES[attribute]
        copy[y : y + 2, x : x + 2] = 1.0
        return copy
    colored = np.stack([image] * 3)
    colored[:, :2, :2] = np.array(colorsys.hsv_to_rgb(attribute / 10, 1, 1), image.dtype)[:, None, None]
    return colored


def biased(records: list[Row], aligned: float, classes: int, mark: Mark, rng: np.random.Generator) -> list[Row]:
    """Add marks to records.

    Args:
        records: with `image` and `label`.
        aligned: share of each class that gets its own mark, rounded to whole rows; the other rows get the mark of another class.
        classes: number of classes.
        mark: see `marked`.
        rng: decides which rows get another mark, and which one.
    """
    conflicting = {y: round(n * (1 - aligned)) for y, n in Counter(r["label"] for r in records).items()}
    biased_rows: list[Row] = [{} for _ in records]
    for i in rng.permutation(len(records)):
        label = records[i]["label"]
        own = conflicting[label] <= 0
        conflicting[label] -= 1
        attribute = label if own else int((label + rng.integers(1, classes)) % classes)
        biased_rows[i] = {"image": marked(records[i]["image"], attribute, mark), "label": label, "attribute": attribute}
    return biased_rows


def generate(
    seed: int = 0, *, aligned: float = 0.995, classes: int = 10, mark: Mark = "patch", unseen: float = 0.5
) -> tuple[list[Row], list[Row]]:
    """Generate training and unseen rows.

    Args:
        seed: of the split into training and unseen images, and of the marks.
        aligned: share of the training rows of a class that have its own mark.
        classes: number of digits, from 0 on.
        mark: see `marked`.
        unseen: share of the unseen rows of a class that have its own mark.

    Returns:
        Training rows and unseen rows with `image`, `label` and `attribute` (the number of the class whose mark the image has).

    Raises:
        UserError: for impossible shares, numbers of classes or marks.
    """
    if not (0 <= aligned <= 1 and 0 <= unseen <= 1 and 2 <= classes <= 10) or mark not in ("patch", "place"):
        raise UserError(
            f"shares are from 0 to 1, classes from 2 to 10, marks patch or place; got {aligned=}, {unseen=}, {classes=}, {mark=}"
        )
    rng, base = np.random.default_rng([seed, 1]), digits.load(seed=seed)  # not the random stream of the split
    parts = ((base.train["full"], aligned), (base.sets["holdout"], unseen))
    train, test = (biased([dict(r) for r in rows if r["label"] < classes], share, classes, mark, rng) for rows, share in parts)
    return train, test


def load(data: str = "", split: str = "class3", seed: int = 0, *, aligned: float = 0.995, mark: Mark = "patch", classes: int = 10) -> Suite:
    """Load the suite of a split.

    Args:
        data: must stay empty, because the images come with scikit-learn.
        split: `class0` to `class9`, the class to be forgotten.
        seed, aligned, mark, classes: see `generate`.

    Raises:
        UserError: for an unknown split, or for `data`.
    """
    if data:
        raise UserError("the digits come with scikit-learn: leave out --data")
    if split not in (known := [f"class{c}" for c in range(classes)]):
        raise UserError(f"biased digits have no split '{split}'; the splits are {known[0]} to {known[-1]}")
    train, test = generate(seed, aligned=aligned, mark=mark, classes=classes)
    return suite(f"biased digits {split}", train, test, int(split.removeprefix("class")), tuple(map(str, range(classes))))

"""Digits: 1,797 real handwritten digits, 8 x 8 pixels, that come with scikit-learn; forget one of the ten, or some images of every one.

Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), as `sklearn.datasets.load_digits` ships it
Licence: CC BY 4.0
Splits: class0 to class9 (all images of a digit), random10 (a tenth of the training images, drawn with the seed; or another percentage)
Scores: accuracies, membership, representations, as the retrained model's; see the metric `classification`
Status: faithful; the split into 1,297 training and 500 unseen images is our own, drawn with the seed
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError

UNSEEN = 500  # images that no model is trained on


def load(data: str = "", split: str = "class3", seed: int = 0, **limits: int) -> Suite:
    """The suite of a split. seed: which images are unseen, and which are drawn to be forgotten. limits: images of a set at most.

    Errors: UserError for an unknown split, or for data of the user's, of which there is none here.
    """
    from sklearn.datasets import load_digits

    if data:
        raise UserError("the digits come with scikit-learn: leave --data out")
    if not (kind := re.fullmatch(r"class(\d)|random([1-9]\d?)", split)):
        raise UserError(f"digits have no split '{split}'; there are class0 to class9, and random1 to random99 (percent of training images)")
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    records: list[dict[str, Any]] = [{"image": (found.images[i] / 16).astype(np.float32), "label": int(found.target[i])} for i in order]
    holdout, full = records[:UNSEEN], records[UNSEEN:]
    size = len(full) * int(kind[2] or 0) // 100
    chosen = [i for i, r in enumerate(full) if (r["label"] == int(kind[1]) if kind[1] else i < size)]
    gone = set(chosen)
    forget, retain = [full[i] for i in chosen], [r for i, r in enumerate(full) if i not in gone]
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"digits have no set '{unknown[0]}'; there are {', '.join(sets)}")
    return Suite(
        name=f"digits {split}",
        sets={n: rows[: limits.get(n)] for n, rows in sets.items()},
        train={"full": full, "forget": forget, "retain": retain},
        labels=tuple(map(str, range(10))),
    )

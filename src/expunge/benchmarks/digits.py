"""Digits: 1,797 real handwritten digits, 8 x 8 pixels, that come with scikit-learn; forget one of the ten digits, or some images of each.

Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), as `sklearn.datasets.load_digits` ships it
Licence: CC BY 4.0
Splits: class0 to class9 (all images of a digit), random10 (a tenth of the training images, drawn with the seed; other percentages work too)
Scores: accuracies, membership, representations, compared with the retrained model; see the metric `classification`
Status: faithful; the split into 1,297 training and 500 unseen images is our own, drawn with the seed
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError

MODEL = "resnet-nano"  # the built-in size that it is made for

UNSEEN = 500  # images that no model is trained on


def load(data: str = "", split: str = "class3", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: must stay empty, because the images come with scikit-learn.
        split: `class0` to `class9`, or `random1` to `random99` (percent of the training images).
        seed: decides which images are unseen, and which random images are to be forgotten.
        limits: the most images of each set to audit, for example `retain=100`.

    Raises:
        UserError: for an unknown split or set, or for `data`.
    """
    from sklearn.datasets import load_digits

    if data:
        raise UserError("the digits come with scikit-learn: leave out --data")
    if not (match := re.fullmatch(r"class(\d)|random([1-9]\d?)", split)):
        raise UserError(f"digits have no split '{split}'; there are class0 to class9, and random1 to random99 (percent of training images)")
    images = load_digits()
    order = np.random.default_rng(seed).permutation(len(images.target))
    records: list[dict[str, Any]] = [{"image": (images.images[i] / 16).astype(np.float32), "label": int(images.target[i])} for i in order]
    holdout, full = records[:UNSEEN], records[UNSEEN:]
    size = len(full) * int(match[2] or 0) // 100
    chosen = [i for i, r in enumerate(full) if (r["label"] == int(match[1]) if match[1] else i < size)]
    forgotten = set(chosen)
    forget, retain = [full[i] for i in chosen], [r for i, r in enumerate(full) if i not in forgotten]
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"digits have no set '{unknown[0]}'; the sets are {', '.join(sets)}")
    return Suite(
        name=f"digits {split}",
        sets={n: rows[: limits.get(n)] for n, rows in sets.items()},
        train={"full": full, "forget": forget, "retain": retain},
        labels=tuple(map(str, range(10))),
    )

"""Digits: the images of the library in disjoint splits, equal for equal seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from expunge.benchmarks.digits import load
from expunge.core.errors import UserError
from expunge.modalities.image.modality import Image

TOTAL, UNSEEN = 1797, 500


def ids(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return Image(tuple(map(str, range(10)))).rows("rows", rows).ids


def labels(rows: Sequence[Mapping[str, Any]]) -> Counter[int]:
    return Counter(r["label"] for r in rows)


@pytest.mark.parametrize("digit", [0, 3, 9])
def test_a_class_split_forgets_every_image_of_a_digit(digit: int) -> None:
    suite = load(split=f"class{digit}")
    assert suite.name == f"digits class{digit}"
    assert labels(suite.sets["forget"]).keys() == {digit}
    assert labels(suite.sets["retain"]).keys() == set(range(10)) - {digit}
    assert labels(suite.sets["holdout"]).keys() == set(range(10))
    assert suite.labels == tuple("0123456789")  # a model that never saw the digit still has a class for it


def test_a_random_split_forgets_some_images_of_every_digit() -> None:
    suite = load(split="random10")
    assert len(suite.sets["forget"]) == (TOTAL - UNSEEN) // 10
    assert labels(suite.sets["forget"]).keys() == labels(suite.sets["retain"]).keys() == set(range(10))
    assert len(load(split="random5").sets["forget"]) == (TOTAL - UNSEEN) // 20


@pytest.mark.parametrize("split", ["class3", "random10"])
def test_sets_are_disjoint_and_cover_all_images(split: str) -> None:
    suite = load(split=split)
    assert {n: len(r) for n, r in suite.sets.items() if n == "holdout"} == {"holdout": UNSEEN}
    whole = [i.split("#")[0] for n in ("forget", "retain", "holdout") for i in ids(suite.sets[n])]
    assert len(whole) == TOTAL
    data = load_digits()
    library_ids = ids([{"image": (x / 16).astype(np.float32), "label": int(y)} for x, y in zip(data.images, data.target, strict=True)])
    assert sorted(whole) == sorted(i.split("#")[0] for i in library_ids)
    assert len(set(whole)) == TOTAL  # no two images are alike, so a split of rows is a split of images
    assert sorted(ids(suite.train["full"])) == sorted((*ids(suite.train["forget"]), *ids(suite.train["retain"])))
    assert ids(suite.train["retain"]) == ids(suite.sets["retain"])


def test_splits_share_the_training_and_the_unseen_images() -> None:
    first, second = load(split="class3"), load(split="random10")
    assert ids(first.train["full"]) == ids(second.train["full"])
    assert ids(first.sets["holdout"]) == ids(second.sets["holdout"])


def test_pixel_values_are_scaled_to_0_to_1() -> None:
    images = np.array([r["image"] for r in load().train["full"]])
    assert (images.dtype, images.shape[1:], images.min(), images.max()) == (np.float32, (8, 8), 0, 1)


def test_the_seed_decides_the_split() -> None:
    assert ids(load(seed=1).sets["forget"]) == ids(load(seed=1).sets["forget"])
    assert ids(load(seed=1).sets["holdout"]) != ids(load(seed=2).sets["holdout"])


def test_limits_cut_the_audited_sets_but_not_the_training_rows() -> None:
    suite, whole = load(forget=5, retain=20, holdout=7), load()
    assert {n: len(r) for n, r in suite.sets.items()} == {"forget": 5, "retain": 20, "holdout": 7}
    assert ids(suite.sets["forget"]) == ids(whole.sets["forget"])[:5]
    assert ids(suite.train["forget"]) == ids(whole.sets["forget"])


@pytest.mark.parametrize("split", ["class10", "class", "random0", "random00", "random100", "three"])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(UserError, match=f"digits have no split '{split}'; there are class0 to class9, and random1 to random99"):
        load(split=split)


def test_user_data_and_unknown_sets_are_refused() -> None:
    with pytest.raises(UserError, match="come with scikit-learn: leave out --data"):
        load("mnist.npz")
    with pytest.raises(UserError, match="no set 'test'; the sets are forget, retain, holdout"):
        load(test=3)

"""Biased digits: equal data from equal seeds, marks in their places, the chosen shares, and no bias among the unseen images."""

from collections import Counter

import numpy as np
import pytest

from expunge.benchmarks import biased_digits, digits
from expunge.benchmarks.biased_digits import PLACES, marked
from expunge.core.errors import UserError
from expunge.modalities.image.modality import classifier_modality


def share(rows: list[dict], label: int) -> float:
    aligned = [r["attribute"] == label for r in rows if r["label"] == label]
    return sum(aligned) / len(aligned)


def test_shares_are_whole_rows_of_each_class() -> None:
    train, test = biased_digits.generate(aligned=0.9, unseen=0.5)
    for rows, aligned in ((train, 0.9), (test, 0.5)):
        counts = Counter(r["label"] for r in rows)
        conflicting = Counter(r["label"] for r in rows if r["attribute"] != r["label"])
        assert conflicting == {y: round(n * (1 - aligned)) for y, n in counts.items()}
    assert [share(biased_digits.generate(aligned=a)[0], 4) for a in (1.0, 0.0)] == [1.0, 0.0]
    first = biased_digits.generate()[0]
    assert sum(r["attribute"] != r["label"] for r in first) == 10  # half a percent of some 130 rows: one per class


def test_marks_against_the_bias_are_spread_over_the_other_classes() -> None:
    _, test = biased_digits.generate(classes=4, unseen=0.0)
    pairs = Counter((r["label"], r["attribute"]) for r in test)
    assert set(pairs) == {(y, a) for y in range(4) for a in range(4) if a != y}
    assert max(pairs.values()) < 3 * min(pairs.values())


def test_the_seed_decides_the_marks() -> None:
    one, again, other = (biased_digits.generate(seed)[0] for seed in (1, 1, 2))
    assert all(a["attribute"] == b["attribute"] and np.array_equal(a["image"], b["image"]) for a, b in zip(one, again, strict=True))
    assert [r["attribute"] for r in one] != [r["attribute"] for r in other]
    few, many = (biased_digits.generate(1, aligned=a)[0] for a in (0.995, 0.9))
    assert [r["label"] for r in few] == [r["label"] for r in many]


def test_marks_change_only_their_pixels() -> None:
    image = np.zeros((8, 8), np.float32)
    patch, place = marked(image, 0, "patch"), marked(image, 5, "place")
    assert patch.shape == (3, 8, 8)
    assert patch[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert patch.sum() == 4
    assert place.sum() == 4
    assert np.argwhere(place)[0].tolist() == list(PLACES[5])
    assert not image.any()
    assert len({marked(image, a, "patch").tobytes() for a in range(10)}) == 10
    assert len({marked(image, a, "place").tobytes() for a in range(10)}) == 10


@pytest.mark.parametrize(("mark", "shape"), [("patch", (3, 8, 8)), ("place", (1, 8, 8))])
def test_the_modality_reads_the_suite(mark: str, shape: tuple[int, ...]) -> None:
    suite = biased_digits.load(split="class2", mark=mark)
    plain = digits.load(split="class2")
    assert {n: len(r) for n, r in suite.train.items()} == {n: len(r) for n, r in plain.train.items()}
    assert len(suite.sets["holdout"]) == len(plain.sets["holdout"])
    unseen = [r for r in suite.sets["holdout"] if r["label"] == 2]
    assert len(suite.sets["aligned"]) + len(suite.sets["conflicting"]) == len(unseen)
    assert abs(len(suite.sets["aligned"]) - len(suite.sets["conflicting"])) <= 1
    assert all(r["attribute"] == 2 for r in suite.sets["aligned"])
    assert all(r["attribute"] != 2 and r["label"] == 2 for r in suite.sets["conflicting"])
    rows = classifier_modality(suite.labels).rows("forget", suite.sets["forget"])
    assert rows["pixels"][0].shape == shape
    assert rows["attribute"].count(2) == round(0.995 * len(rows))
    assert set(rows["answer_text"]) == {"2"}


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="class0 to class9"):
        biased_digits.load(split="class10")
    with pytest.raises(UserError, match="class0 to class2"):
        biased_digits.load(split="class3", classes=3)
    with pytest.raises(UserError, match="leave out --data"):
        biased_digits.load("here")
    for wrong in ({"aligned": 1.5}, {"unseen": -0.1}, {"classes": 11}, {"classes": 1}, {"mark": "smell"}):
        with pytest.raises(UserError, match="shares are from 0 to 1"):
            biased_digits.generate(**wrong)

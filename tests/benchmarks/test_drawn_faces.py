"""Drawn faces: distances checked by hand, equal bytes from equal seeds, and pictures that show the person and the words."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import learning
from expunge.benchmarks.synthetic.face_canvas import Canvas, ellipse, stroke
from expunge.benchmarks.synthetic.faces import draw, faces, person, picture, words
from expunge.core.errors import UserError


def looks(identity: int = 0, age: float = 30, **changes: object) -> dict:
    """The looks of a picture in which only the person is random."""
    plain = {"tilt": 0.0, "turn": 0.0, "nod": 0.0, "x": 0.0, "y": 0.0, "scale": 1.0, "light": 0.0, "smile": 0.0, "teeth": 0.0}
    return picture(person(identity), age, np.random.default_rng(0)) | plain | {"seems": age, "glasses": False} | changes


def single(**changes: object) -> np.ndarray:
    return draw([looks(**changes)], 64)[0].astype(int)


def test_distances_match_a_hand_calculation() -> None:
    x, y = np.array([0.5, 0.8, 0.0, 0.0]), np.array([0.0, 0.0, 0.5, 0.0])
    circle = ellipse(x, y, 0.5, 0.5)
    assert circle[:3] == pytest.approx([0, 0.3, 0], abs=5e-3)
    assert circle[3] < 0
    assert ellipse(np.array([0.0]), np.array([0.2]), 0.5, 0.2) == pytest.approx(0, abs=5e-3)
    # straight, half a unit long each way, 0.1 thick in the middle and 0.03 at its ends
    assert stroke(x, y, 0.5, 0.0, 0.1) == pytest.approx([-0.03, 0.27, 0.4, -0.1])
    assert stroke(x, y, 0.5, 0.0, 0.1, np.pi / 2) == pytest.approx([0.4, 0.7, -0.03, -0.1])
    assert stroke(np.array([0.5]), np.array([0.2]), 0.5, 0.2, 0.1) == pytest.approx([-0.03])  # its end hangs down by 0.2


def test_rows_have_the_documented_columns() -> None:
    rows = faces(3, 4, ages=(10, 60), years=5)
    assert len(rows) == 12
    assert [row["identity"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    for row in rows:
        assert row["image"].shape == (3, 32, 32)
        assert row["image"].dtype == np.uint8
        assert row["label"] == row["identity"]
        assert 10 <= row["age"] <= 60
        assert ("smiling" in row["words"]) == row["smiling"]
        assert ("glasses" in row["words"]) == row["glasses"]
    for number in range(3):
        ages = [row["age"] for row in rows if row["identity"] == number]
        assert max(ages) - min(ages) <= 5
    assert faces(1, 1, size=48)[0]["image"].shape == (3, 48, 48)


def test_two_processes_with_other_hash_seeds_agree() -> None:
    imports = "import hashlib; from expunge.benchmarks.synthetic.faces import faces"
    code = f"{imports}; print(hashlib.sha256(faces(3, 2, seed=7)[5]['image']).hexdigest())"
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == hashlib.sha256(faces(3, 2, seed=7)[5]["image"]).hexdigest()


def test_another_seed_draws_other_people() -> None:
    a, b = faces(4, 1), faces(4, 1, seed=1)
    assert all((one["image"] != other["image"]).mean() > 0.5 for one, other in zip(a, b, strict=True))


def test_a_person_does_not_depend_on_the_other_people_drawn() -> None:
    many, few = faces(6, 3)[12:15], faces([4], 3)
    for one, other in zip(many, few, strict=True):
        assert {k: v for k, v in one.items() if k != "image"} == {k: v for k, v in other.items() if k != "image"}
        assert np.abs(one["image"].astype(int) - other["image"]).max() <= 1


def test_a_small_picture_is_the_mean_of_a_large_one() -> None:
    people = [looks(i) for i in range(8)]
    small, large = draw(people, 32).astype(float), draw(people, 128).astype(float)
    assert np.abs(large.reshape(8, 3, 32, 4, 32, 4).mean((3, 5)) - small).mean() < 4


def test_glasses_change_the_eyes_only() -> None:
    change = np.abs(single() - single(glasses=True)).max((0, 2))  # by row
    assert change[20:40].max() > 60
    assert not change[44:].any()
    assert not change[:16].any()


def test_a_smile_changes_the_mouth() -> None:
    change = np.abs(single() - single(smile=1.0, teeth=1.0)).max((0, 2))
    assert change[44:54].max() > 60
    assert not change[:24].any()


def test_old_faces_have_lines() -> None:
    bare = {"cut": "shaved", "line": -0.6, "balding": 0.0}
    young, old = (single(age=age, **bare)[:, 23:27, 22:42] for age in (25, 72))  # of the forehead
    assert np.abs(np.diff(old, axis=1)).mean() > 1.5 * np.abs(np.diff(young, axis=1)).mean()


def test_old_people_have_gray_hair() -> None:
    brown, gray = (single(age=age, cut="fringe", hair="brown", greying=50.0)[:, 17:21, 28:36].mean((1, 2)) for age in (25, 75))
    assert np.ptp(brown) > 25  # from red to blue; gray has no color
    assert np.ptp(gray) < 12
    assert gray.mean() > brown.mean() + 60


def test_heads_of_children_are_round_with_low_eyes() -> None:
    child, man = Canvas([looks(age=4)], 32), Canvas([looks(age=30)], 32)
    assert child.width / child.height > 1.1 * man.width / man.height
    assert child.eye_y > man.eye_y
    assert child.eye_size > 1.2 * man.eye_size


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"age": 30, "man": True, "beard": "beard"}, ("man", "young", "brown hair", "beard")),
        ({"age": 70, "man": False, "smiling": True}, ("woman", "old", "grey hair", "smiling")),
        ({"age": 8, "man": True, "beard": "moustache", "glasses": True}, ("boy", "child", "brown hair", "glasses")),
        ({"age": 16, "man": False}, ("woman", "teenage", "brown hair")),
        ({"age": 45, "man": False, "glasses": True, "smiling": True}, ("woman", "middle-aged", "brown hair", "glasses", "smiling")),
    ],
)
def test_words_describe_the_picture(changes: dict, expected: tuple[str, ...]) -> None:
    assert words(looks(**{"hair": "brown", "beard": "none", "greying": 48.0, "smiling": False, **changes})) == expected


def test_a_model_recognizes_a_person_in_new_pictures() -> None:
    rows = faces(10, 24, ages=(20, 60), years=5)
    training = [row for i, row in enumerate(rows) if i % 24 < 18]
    fresh = [row for i, row in enumerate(rows) if i % 24 >= 18]
    modality, model = learning.learned(training, 10, epochs=10)
    assert learning.accuracy(modality, model, fresh) > 0.5  # chance: 0.1


@pytest.mark.parametrize(
    "call",
    [
        lambda: faces(0, 1),
        lambda: faces([-1], 1),
        lambda: faces(1, 0),
        lambda: faces(1, 1, size=4),
        lambda: faces(1, 1, ages=(30, 20)),
        lambda: faces(1, 1, years=-1),
        lambda: faces(1, 1, seed=-1),
    ],
)
def test_impossible_arguments_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="faces needs people"):
        call()

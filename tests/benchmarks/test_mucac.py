"""MUCAC: the published layout, cuts by identity, and a mini version of drawn faces with the same cuts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import learning
from expunge.benchmarks import mucac
from expunge.core.errors import UserError
from expunge.functional.unlearning_scores import nomus

CUTS = {"trained": 5, "retained": 10, "unseen": 18}  # of 24 identities with two pictures each


def values(identity: int) -> list[str]:
    """Forty attributes of a person, -1 except for the three attributes in use and a decoy before each."""
    line = ["-1"] * 40
    for column, value in ((21, identity % 2), (32, identity // 2 % 2), (40, identity // 4 % 2)):
        line[column - 1] = "1" if value else "-1"
        line[column - 2] = "-1" if value else "1"
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 pictures in the authors' layout; the list of attributes is in reverse order."""
    images = tmp_path / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {f"{i}.jpg": i // 2 for i in range(48)}
    for name in names:
        # Lossless, so that pixels can be compared; readers detect the format from the content.
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(images / name, format="PNG")
    (tmp_path / "CelebA-HQ-identity.txt").write_text("".join(f"{name} {identity}\n" for name, identity in names.items()))
    lines = [" ".join([name, *values(identity)]) for name, identity in reversed(names.items())]
    (tmp_path / "CelebA-HQ-attribute.txt").write_text("\n".join(["48", " ".join(f"Attribute_{i}" for i in range(40)), *lines]) + "\n")
    return tmp_path


def people(suite: object) -> dict[str, set[int]]:
    return {name: {row["identity"] for row in rows} for name, rows in suite.sets.items()}


def test_identities_are_divided_into_four_sets(folder: Path) -> None:
    suite = mucac.load(str(folder), **CUTS)
    assert people(suite) == {
        "test": set(range(5)),
        "forget": set(range(5, 10)),
        "retain": set(range(10, 18)),
        "holdout": set(range(18, 24)),
    }
    assert {name: len(rows) for name, rows in suite.sets.items()} == {"forget": 10, "retain": 16, "holdout": 12, "test": 10}
    assert suite.train["full"] == [*suite.train["forget"], *suite.train["retain"]]
    assert suite.name == "mucac gender trained=5 retained=10 unseen=18"
    assert suite.labels == ("female", "male")


def test_the_published_cuts_are_the_default() -> None:
    assert mucac.FULL == {"trained": 190, "retained": 1250, "unseen": 4855, "size": 0}


@pytest.mark.parametrize(
    ("split", "label"),
    [("gender", lambda i: i % 2), ("smiling", lambda i: i // 2 % 2), ("young", lambda i: i // 4 % 2)],
)
def test_attributes_are_read_from_their_columns(folder: Path, split: str, label: Callable[[int], int]) -> None:
    for rows in mucac.load(str(folder), split, **CUTS).sets.values():
        for row in rows:
            assert row["label"] == row[split] == label(row["identity"])


def test_joint_classes_combine_the_three_attributes(folder: Path) -> None:
    label = {row["identity"]: row["label"] for rows in mucac.load(str(folder), "joint", **CUTS).sets.values() for row in rows}
    assert [label[i] for i in range(8)] == [0, 4, 2, 6, 1, 5, 3, 7]  # 4 for a man, 2 for a smile, 1 for young
    suite = mucac.load(str(folder), "joint", **CUTS)
    assert suite.labels[4] == "male, not smiling, old"
    assert suite.labels[3] == "female, smiling, young"
    row = suite.sets["test"][2]
    assert row == {
        "image": str(folder / "CelebAMask-HQ" / "CelebA-HQ-img" / "2.jpg"),
        "identity": 1,
        "gender": 1,
        "smiling": 0,
        "young": 0,
        "label": 4,
    }


def test_missing_pictures_are_left_out(folder: Path) -> None:
    (folder / "CelebAMask-HQ" / "CelebA-HQ-img" / "10.jpg").unlink()
    assert len(mucac.load(str(folder), **CUTS).sets["forget"]) == 9


def test_the_layout_of_celebamask_is_read(folder: Path) -> None:
    (folder / "CelebA-HQ-attribute.txt").rename(folder / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt")
    (folder / "CelebA-HQ-identity.txt").rename(folder / "CelebAMask-HQ" / "CelebA-HQ-identity.txt")
    row = mucac.load(str(folder), size=16, **CUTS).sets["test"][0]
    expected = np.asarray(Image.open(folder / "CelebAMask-HQ" / "CelebA-HQ-img" / "0.jpg")).transpose(2, 0, 1)
    assert np.array_equal(row["image"], expected)
    assert np.array_equal(mucac.load(str(folder / "CelebAMask-HQ"), size=16, **CUTS).sets["test"][0]["image"], expected)


def test_mistakes_have_clear_messages(folder: Path) -> None:
    identities, attributes = folder / "CelebA-HQ-identity.txt", folder / "CelebA-HQ-attribute.txt"
    images = folder / "CelebAMask-HQ" / "CelebA-HQ-img"

    def appended(path: Path, line: str) -> object:
        before = path.read_text()
        path.write_text(before + line)
        try:
            return mucac.load(str(folder), **CUTS)
        finally:
            path.write_text(before)

    def unlisted() -> object:
        (images / "99.jpg").write_bytes((images / "1.jpg").read_bytes())
        return mucac.load(str(folder), **CUTS)

    def unread() -> object:
        (images / "99.jpg").unlink()
        (images / "1.jpg").write_text("no picture")
        return mucac.load(str(folder), size=8, **CUTS)

    def without(path: Path) -> object:
        path.unlink()
        return mucac.load(str(folder), **CUTS)

    mistakes: dict[str, Callable[[], object]] = {
        "no split 'smile'; did you mean 'smiling'": lambda: mucac.load(split="smile"),
        "no size 'retain' here; did you mean 'retained' or 'trained'": lambda: mucac.load(retain=3),
        "no rows are left for forget": lambda: mucac.load(str(folder)),
        "no rows are left for retain": lambda: mucac.load(str(folder), trained=10, retained=18, unseen=18),
        "line 49: a line must be the name of a file and the number of a person": lambda: appended(identities, "48.jpg seven\n"),
        "line 51: a line must be the name of a file and 40 values": lambda: appended(attributes, "48.jpg 1 1 -1\n"),
        "1 pictures of": unlisted,
        "is not a readable image": unread,
        "contains no CelebA-HQ-attribute.txt or CelebAMask-HQ-attribute-anno.txt": lambda: without(attributes),
    }
    for says, call in mistakes.items():
        with pytest.raises(UserError) as caught:
            call()
        assert says in str(caught.value)


def test_a_picture_without_attributes_is_named(folder: Path) -> None:
    path = folder / "CelebA-HQ-attribute.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"identity.txt, line 1: '0.jpg' is not in the list of attributes"):
        mucac.load(str(folder), **CUTS)


def test_the_mini_version_has_the_same_cuts() -> None:
    suite = mucac.load(trained=3, retained=5, unseen=9, people=12, images=3)
    assert people(suite) == {"test": {0, 1, 2}, "forget": {3, 4}, "retain": {5, 6, 7, 8}, "holdout": {9, 10, 11}}
    for rows in suite.sets.values():
        for row in rows:
            assert (row["gender"], row["smiling"], row["young"]) == (row["man"], "smiling" in row["words"], row["age"] < 40)
    again = mucac.load(split="young", trained=3, retained=5, unseen=9, people=12, images=3)
    assert [row["label"] for row in again.train["full"]] == [row["young"] for row in suite.train["full"]]


@pytest.mark.slow
def test_a_model_recognizes_smiles_of_unseen_people() -> None:
    suite = mucac.load(split="smiling", trained=30, retained=40, unseen=110, people=111, images=8)
    modality, model = learning.learned(suite.train["full"], 2, epochs=12)
    assert learning.accuracy(modality, model, suite.sets["test"]) > 0.62  # chance: 0.5


def test_published_scores_agree_with_their_own_formula() -> None:
    assert set(mucac.PUBLISHED) == {"multi-label", "gender", "smiling", "young"}
    for table in mucac.PUBLISHED.values():
        for row in table.values():
            assert nomus(row.accuracy, 0.5 + row.forgetting) == pytest.approx(row.nomus, abs=1.01e-4)

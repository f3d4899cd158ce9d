"""MUCAC: lists and pictures read as they are published, cut by identity, and a mini version of drawn faces in the same cuts."""

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
    """Forty attributes of a person; only the three that count are ever 1, but for a decoy on either side of each."""
    line = ["-1"] * 40
    for column, said in ((21, identity % 2), (32, identity // 2 % 2), (40, identity // 4 % 2)):
        line[column - 1] = "1" if said else "-1"
        line[column - 2] = "-1" if said else "1"
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 pictures in the authors' layout, the lists in an order of their own."""
    images = tmp_path / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {f"{i}.jpg": i // 2 for i in range(48)}
    for name in names:
        # Without loss, so that pixels can be compared; readers go by the content.
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(images / name, format="PNG")
    (tmp_path / "CelebA-HQ-identity.txt").write_text("".join(f"{name} {identity}\n" for name, identity in names.items()))
    lines = [" ".join([name, *values(identity)]) for name, identity in reversed(names.items())]
    (tmp_path / "CelebA-HQ-attribute.txt").write_text("\n".join(["48", " ".join(f"Attribute_{i}" for i in range(40)), *lines]) + "\n")
    return tmp_path


def people(suite: object) -> dict[str, set[int]]:
    return {name: {row["identity"] for row in rows} for name, rows in suite.sets.items()}


def test_identities_are_cut_in_four(folder: Path) -> None:
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
def test_attributes_stand_in_their_columns(folder: Path, split: str, label: Callable[[int], int]) -> None:
    for rows in mucac.load(str(folder), split, **CUTS).sets.values():
        for row in rows:
            assert row["label"] == row[split] == label(row["identity"])


def test_joint_classes_by_hand(folder: Path) -> None:
    label = {row["identity"]: row["label"] for rows in mucac.load(str(folder), "joint", **CUTS).sets.values() for row in rows}
    assert [label[i] for i in range(8)] == [0, 4, 2, 6, 1, 5, 3, 7]  # 4 of a man, 2 of a smile, 1 of youth
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


def test_pictures_that_are_not_there_are_left_out(folder: Path) -> None:
    (folder / "CelebAMask-HQ" / "CelebA-HQ-img" / "10.jpg").unlink()
    assert len(mucac.load(str(folder), **CUTS).sets["forget"]) == 9


def test_the_layout_of_celebamask_is_read_too(folder: Path) -> None:
    (folder / "CelebA-HQ-attribute.txt").rename(folder / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt")
    (folder / "CelebA-HQ-identity.txt").rename(folder / "CelebAMask-HQ" / "CelebA-HQ-identity.txt")
    row = mucac.load(str(folder), size=16, **CUTS).sets["test"][0]
    there = np.asarray(Image.open(folder / "CelebAMask-HQ" / "CelebA-HQ-img" / "0.jpg")).transpose(2, 0, 1)
    assert np.array_equal(row["image"], there)
    assert np.array_equal(mucac.load(str(folder / "CelebAMask-HQ"), size=16, **CUTS).sets["test"][0]["image"], there)


def test_mistakes_get_a_sentence(folder: Path) -> None:
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
        "nothing is left for forget": lambda: mucac.load(str(folder)),
        "nothing is left for retain": lambda: mucac.load(str(folder), trained=10, retained=18, unseen=18),
        "line 49: a line is the name of a file and the number of a person": lambda: appended(identities, "48.jpg seven\n"),
        "line 51: a line is the name of a file and 40 values": lambda: appended(attributes, "48.jpg 1 1 -1\n"),
        "1 pictures of": unlisted,
        "not an image that can be read": unread,
        "holds no CelebA-HQ-attribute.txt or CelebAMask-HQ-attribute-anno.txt": lambda: without(attributes),
    }
    for says, call in mistakes.items():
        with pytest.raises(UserError) as caught:
            call()
        assert says in str(caught.value)


def test_a_picture_without_attributes_is_named(folder: Path) -> None:
    path = folder / "CelebA-HQ-attribute.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"identity.txt, line 1: '0.jpg' does not stand in the list of attributes"):
        mucac.load(str(folder), **CUTS)


def test_the_mini_version_is_cut_in_the_same_way() -> None:
    suite = mucac.load(trained=3, retained=5, unseen=9, people=12, images=3)
    assert people(suite) == {"test": {0, 1, 2}, "forget": {3, 4}, "retain": {5, 6, 7, 8}, "holdout": {9, 10, 11}}
    for rows in suite.sets.values():
        for row in rows:
            assert (row["gender"], row["smiling"], row["young"]) == (row["man"], "smiling" in row["words"], row["age"] < 40)
    again = mucac.load(split="young", trained=3, retained=5, unseen=9, people=12, images=3)
    assert [row["label"] for row in again.train["full"]] == [row["young"] for row in suite.train["full"]]


def test_smiles_of_people_never_seen_can_be_learned() -> None:
    suite = mucac.load(split="smiling", trained=30, retained=40, unseen=110, people=111, images=8)
    modality, model = learning.learned(suite.train["full"], 2, epochs=12)
    assert learning.accuracy(modality, model, suite.sets["test"]) > 0.62  # chance: 0.5


def test_published_scores_agree_with_their_own_formula() -> None:
    assert set(mucac.PUBLISHED) == {"multi-label", "gender", "smiling", "young"}
    for table in mucac.PUBLISHED.values():
        for row in table.values():
            assert nomus(row.accuracy, 0.5 + row.forgetting) == pytest.approx(row.nomus, abs=1.01e-4)

"""Every picture file of a folder becomes a row, or an error names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expunge.core.errors import UserError
from expunge.io import models
from expunge.io.data import read
from expunge.modalities.image.modality import Image as Modality


def draw(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / name, "PNG")


def labels(folder: Path, **options: str) -> list[tuple[str, str | None]]:
    return [(str(Path(r["image"]).relative_to(folder)), r.get("label")) for r in read(folder, **options)]


@pytest.mark.parametrize(
    "names",
    [
        ("cat/a.png", "cat/test_2.png", "dog/train-9.png", "dog/validation.png"),
        ("car/1.png", "steam train/1.png", "test/1.png", "test/2.png"),
        ("test/1.png", "test/2.png"),
        ("cat/A.PNG", "cat/b.JpEg", "cat/without_suffix", "cat/c.unknown", "dog/[1] *.png"),
        ("x/cat/1.png", "y/cat/1.png", "y/dog/1.png"),
        ("train/1.png", "car/1.png"),
    ],
)
def test_every_picture_is_a_row_of_the_class_of_its_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    draw(tmp_path, *names)
    (tmp_path / "README.txt").write_text("pictures")
    assert labels(tmp_path) == [(n, Path(n).parent.name) for n in sorted(names)]


def test_folders_of_splits_are_splits(tmp_path: Path) -> None:
    draw(tmp_path, "train/cat/1.png", "train/dog/test.png", "test/cat/2.png", "val/cat/3.png")
    assert labels(tmp_path) == [("train/cat/1.png", "cat"), ("train/dog/test.png", "dog")]
    assert labels(tmp_path, split="test") == [("test/cat/2.png", "cat")]
    assert labels(tmp_path, split="validation") == [("val/cat/3.png", "cat")]


def test_linked_folders_and_files_are_read(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere", "1.png", "2.png")
    draw(tmp_path / "data", "cat/1.png")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    assert labels(tmp_path / "data") == [("cat/1.png", "cat"), ("cat/2.png", "cat"), ("dog/1.png", "dog"), ("dog/2.png", "dog")]
    (tmp_path / "data" / "cat" / "circle").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match="is a link to a folder that holds it"):
        read(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat/1.png", "cat/.2.png"), r"1 picture that are hidden, such as cat/\.2\.png"),
        (("cat/1.png", ".ipynb_checkpoints/1.png"), "hidden"),
        (("cat/1.png", "cat/indoor/2.png", "dog/3.png"), "is the class of cat/indoor/2.png 'indoor', or 'cat' as for cat/1.png"),
        (("test/1.png", "train/2.png"), "may be classes or splits"),
        (("test/cat/1.png", "val/cat/1.png"), "has no split 'train'; it has test, val"),
    ],
)
def test_what_would_be_left_out_is_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    draw(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_companions_that_macos_leaves_are_no_pictures(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "._1.png").write_bytes(b"\x00\x05\x16\x07" + b"\0" * 60)
    assert labels(tmp_path) == [("cat/1.png", "cat")]


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    (tmp_path / "cat" / "2.png").write_bytes((tmp_path / "cat" / "2.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"row 2: not an image that can be read: .*cat/2\.png"):
        models.rows(Modality(("cat", "dog")), "forget", tmp_path)
    (tmp_path / "cat" / "2.png").unlink()
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"row 2: there is no image file .*cat/2\.png"):
        models.rows(Modality(("cat", "dog")), "forget", tmp_path)


def test_metadata_describes_all_pictures_or_names_one(tmp_path: Path) -> None:
    draw(tmp_path, "a/train-1.png", "b/2.png")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label,person\nb/2.png,cat,7\na/train-1.png,dog,8\n")
    assert read(tmp_path) == [
        {"image": str(tmp_path / "b/2.png"), "label": "cat", "person": "7"},
        {"image": str(tmp_path / "a/train-1.png"), "label": "dog", "person": "8"},
    ]
    table.write_text("file_name,label\nb/2.png,cat\n")
    with pytest.raises(UserError, match=r"1 picture that metadata\.csv does not describe, such as a/train-1\.png"):
        read(tmp_path)
    table.write_text("file_name,label\nb/2.png,cat\na/train-1.png,dog\nb/3.png,dog\n")
    with pytest.raises(UserError, match=r"describes 1 picture that are not there, such as b/3\.png"):
        read(tmp_path)


def test_pictures_beside_a_table_are_not_guessed(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "labels.csv").write_text("image,label\n1.png,cat\n")
    with pytest.raises(UserError, match=r"holds pictures beside the table labels\.csv"):
        read(tmp_path)

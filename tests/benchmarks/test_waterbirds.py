"""Waterbirds: a folder in the published layout becomes the right rows, and mistakes have clear messages."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cases import expunge
from expunge.benchmarks import waterbirds
from expunge.benchmarks.waterbirds import rows, thinned
from expunge.core.errors import UserError
from expunge.modalities.image.modality import classifier_modality

HEADER = ["img_id", "img_filename", "y", "split", "place", "place_filename"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images of many sizes; one of ten training birds and half of the unseen birds are in the wrong place."""
    lines, shade = [], 0
    for part, n, wrong in ((0, 10, 1), (1, 2, 1), (2, 8, 4)):
        for y in (0, 1):
            for i in range(n):
                name = f"{part:03d}.Bird/{y}_{i}.jpg"
                (tmp_path / name).parent.mkdir(exist_ok=True)
                shade += 5
                Image.fromarray(np.full((6 + i, 9, 3), shade, np.uint8)).save(tmp_path / name)
                lines.append([len(lines) + 1, name, y, part, 1 - y if i < wrong else y, f"/f/forest/{i}.jpg"])
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *lines])
    return tmp_path


def test_sets_have_the_right_rows(folder: Path) -> None:
    suite = waterbirds.load(str(folder))
    sizes = {"forget": 10, "retain": 10, "holdout": 16, "aligned": 4, "conflicting": 4}
    assert {n: len(r) for n, r in suite.sets.items()} == sizes
    assert len(suite.train["full"]) == 20
    assert {r["label"] for r in suite.sets["forget"]} == {1}
    assert {r["label"] for r in suite.sets["retain"]} == {0}
    assert {(r["label"], r["attribute"]) for r in suite.sets["conflicting"]} == {(1, 0)}
    assert {(r["label"], r["attribute"]) for r in suite.sets["aligned"]} == {(1, 1)}
    assert {r["label"] for r in waterbirds.load(str(folder), "landbird").sets["conflicting"]} == {0}
    forget_rows = classifier_modality(suite.labels).rows("forget", suite.sets["forget"])
    assert {p.shape for p in forget_rows["pixels"]} == {(3, 64, 64)}
    assert forget_rows["answer_text"][0] == "waterbird"
    assert Counter(forget_rows["attribute"]) == {1: 9, 0: 1}


def test_size_0_keeps_the_files(folder: Path) -> None:
    suite = waterbirds.load(str(folder), size=0)
    assert Path(suite.sets["forget"][0]["image"]).is_file()
    assert waterbirds.load(str(folder), size=8).sets["forget"][0]["image"].shape == (3, 8, 8)


@pytest.mark.slow
def test_a_classifier_forgets_one_kind_of_bird(folder: Path, tmp_path: Path) -> None:
    words = ("--data", folder, "--methods", "ga", "--train", "steps=1", "--steps", 1, "--lr", 1e-3, "--no-relearn")
    expunge("bench", "waterbirds", *words, "--out", tmp_path / "run").fine()
    bench = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert [e["name"] for e in bench["entries"]] == ["original", "retrained", "random weights", "ga"]
    assert all("forget_accuracy" in e["scores"] for e in bench["entries"])


def test_thinning_removes_conflicting_rows_to_reach_the_share() -> None:
    """Of 90 right and 10 wrong rows a class, 95 % right means that 5 (4.7) wrong ones stay; 99.5 % none (0.45)."""
    records = [{"label": y, "attribute": 1 - y if i < 10 else y, "image": f"{y}{i}"} for y in (0, 1) for i in range(100)]
    for aligned, stay in ((0.9, 10), (0.95, 5), (0.98, 2), (0.995, 0), (1.0, 0), (0.5, 10)):
        left = thinned(records, aligned)
        assert Counter((r["label"], r["attribute"]) for r in left) == Counter({(0, 0): 90, (1, 1): 90, (0, 1): stay, (1, 0): stay})
    assert thinned(records, 0.95, seed=1) == thinned(records, 0.95, seed=1) != thinned(records, 0.95, seed=2)


def test_the_share_applies_to_training_rows_only(folder: Path) -> None:
    suite = waterbirds.load(str(folder), aligned=0.995)
    assert all(r["label"] == r["attribute"] for r in suite.train["full"])
    assert len(suite.sets["conflicting"]) == 4


def test_rows_are_selected_by_part(folder: Path) -> None:
    assert [len(rows(folder, part)) for part in (0, 1, 2)] == [20, 4, 16]


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        (HEADER, [0, "a.jpg", 2, 0, 0, ""], "line 2: y and place are 0 or 1"),
        (HEADER, [0, "a.jpg", "duck", 0, 0, ""], "line 2: split, y and place are whole numbers"),
        (["img_filename", "y", "split"], ["a.jpg", 0, 0], "no column 'place'"),
        (HEADER, [0, "a.jpg", 1, 1, 1, ""], "no row for the set"),
    ],
)
def test_a_folder_in_another_layout_is_refused(tmp_path: Path, header: list[str], line: list[object], message: str) -> None:
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, line])
    with pytest.raises(UserError, match=message):
        waterbirds.load(str(tmp_path))


def test_impossible_arguments_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        waterbirds.load(str(folder / "nowhere"))
    with pytest.raises(UserError, match="give --data"):
        waterbirds.load()
    with pytest.raises(UserError, match="did you mean 'landbird'"):
        waterbirds.load(str(folder), "landbirds")
    with pytest.raises(UserError, match="from 0 to 1"):
        waterbirds.load(str(folder), aligned=2)
    with pytest.raises(UserError, match="a number of pixels"):
        waterbirds.load(str(folder), size=-1)

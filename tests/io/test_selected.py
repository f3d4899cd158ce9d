"""What a selector chose, written down: files that read as the rows were, and places as a condition says them."""

from pathlib import Path

import numpy as np
from PIL import Image

from expunge.io.data import read, where
from expunge.io.selection_files import ranges, save


def test_what_is_written_reads_as_it_was(tmp_path: Path) -> None:
    texts = [{"question": "Who?", "n": 1}, {"question": "Why?", "other": None}]
    images = [{"image": np.full((2, 2), i, np.uint8), "label": i, "name": f"x{i}"} for i in range(3)]
    pictures = [{"image": Image.fromarray(np.zeros((2, 2 + i), np.uint8)), "label": i} for i in range(2)]
    places = [save(tmp_path / name, rows) for name, rows in (("texts", texts), ("images", images), ("pictures", pictures))]
    assert [p.name for p in places] == ["texts.jsonl", "images.npz", "pictures"]
    assert read(places[0]) == texts
    assert [(r["label"], r["name"], r["image"].tolist()) for r in read(places[1])] == [(i, f"x{i}", [[i, i]] * 2) for i in range(3)]
    assert [(r["label"], r["image"].size) for r in read(places[2])] == [(0, (2, 2)), (1, (3, 2))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npz", "pictures", "texts.jsonl"]


def test_places_as_a_condition_says_them() -> None:
    rows = [{"n": i} for i in range(9)]
    for places in ([0], [3, 1, 2, 8], [0, 2, 4], [*range(9)]):
        assert where(rows, f"rows={ranges(places)}") == [rows[i] for i in sorted(places)]
    assert ranges([3, 1, 2, 8]) == "1-3,8"

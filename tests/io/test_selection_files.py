"""Rows chosen by a selector: files that read back unchanged, and indices as a condition writes them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from expunge.io.data import read, where
from expunge.io.selection_files import ranges, save


def test_saved_rows_read_back_unchanged(tmp_path: Path) -> None:
    texts = [{"question": "Who?", "n": 1}, {"question": "Why?", "other": None}]
    images = [{"image": np.full((2, 2), i, np.uint8), "label": i, "name": f"x{i}"} for i in range(3)]
    pictures = [{"image": Image.fromarray(np.zeros((2, 2 + i), np.uint8)), "label": i} for i in range(2)]
    paths = [save(tmp_path / name, rows) for name, rows in (("texts", texts), ("images", images), ("pictures", pictures))]
    assert [p.name for p in paths] == ["texts.jsonl", "images.npz", "pictures"]
    assert read(paths[0]) == texts
    assert [(r["label"], r["name"], r["image"].tolist()) for r in read(paths[1])] == [(i, f"x{i}", [[i, i]] * 2) for i in range(3)]
    assert [(r["label"], Image.open(io.BytesIO(r["image"]["bytes"])).size) for r in read(paths[2])] == [(0, (2, 2)), (1, (3, 2))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npz", "pictures", "texts.jsonl"]


def test_ranges_select_the_same_rows_in_a_condition() -> None:
    rows = [{"n": i} for i in range(9)]
    for indices in ([0], [3, 1, 2, 8], [0, 2, 4], [*range(9)]):
        assert where(rows, f"rows={ranges(indices)}") == [rows[i] for i in sorted(indices)]
    assert ranges([3, 1, 2, 8]) == "1-3,8"

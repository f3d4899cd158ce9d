"""The tables of MovieLens on the page of recommenders show the means and ranges of the files."""

from __future__ import annotations

import json
from pathlib import Path

from studies import movielens_page, seed_pages


def write(root: Path, seed: int, recall: float) -> None:
    scores = {"original": {"forget_recall": recall, "cost": 0.0}, "mmrecun": {"forget_recall": 0.25, "cost": 0.5}}
    record = {"command": "python -m studies.movielens", "split": "user05", "model": "bpr_mf-nano", "seed": seed, "scores": scores}
    folder = root / movielens_page.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed{seed}.json").write_text(json.dumps(record), encoding="utf-8")


def test_means_and_ranges_of_two_seeds(tmp_path: Path) -> None:
    for seed, recall in enumerate((0.2, 0.4)):
        write(tmp_path, seed, recall)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / movielens_page.PAGE
    page.write_text(f"before\n\n{seed_pages.begin(movielens_page.RESULTS)}\nold\n{seed_pages.END}\n\nafter\n", encoding="utf-8")
    text = movielens_page.pages(tmp_path)[movielens_page.PAGE]
    assert "| original | 0.300 (0.200 to 0.400) | - | - | - | - | 0.000 |" in text
    assert "| mmrecun | 0.250 | - | - | - | - | 0.500 |" in text
    assert "2 seeds" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\n\nafter\n")
    page.write_text(text, encoding="utf-8")
    assert movielens_page.pages(tmp_path)[movielens_page.PAGE] == text


def test_a_page_without_a_place_for_them_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, 0, 0.2)
    assert movielens_page.pages(tmp_path) == {}

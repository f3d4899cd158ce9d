"""The tables of the page on vision-language models come from the results alone."""

from __future__ import annotations

import json
from pathlib import Path

from studies import faces_page, seed_pages


def written(root: Path, seed: int, share: float) -> None:
    scores = {"original": {"door_picture": share, "relearned by name, door_name": 1.0}, "GA": {"door_picture": 0.0}}
    record = {"command": "python -m studies.faces", "split": "forget5", "model": "llava-nano", "seed": seed, "scores": scores}
    folder = root / faces_page.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed{seed}.json").write_text(json.dumps(record), encoding="utf-8")


def test_means_and_ranges_of_the_seeds_stand_in_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "docs" / faces_page.PAGE
    page.parent.mkdir()
    page.write_text(f"before\n\n{seed_pages.begin(faces_page.RESULTS)}\nold\n{seed_pages.END}\n\nafter\n", encoding="utf-8")
    assert "Not measured yet" in faces_page.pages(tmp_path)[faces_page.PAGE]
    for seed, share in ((0, 0.5), (1, 1.0)):
        written(tmp_path, seed, share)
    text = faces_page.pages(tmp_path)[faces_page.PAGE]
    assert "| original | 0.75 (0.50 to 1.00) | - |" in text
    assert "| GA | 0.00 | - |" in text
    assert "| original | - | - | - | 1.00 |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    page.write_text(text, encoding="utf-8")
    assert faces_page.pages(tmp_path)[faces_page.PAGE] == text


def test_a_page_without_a_place_is_left_alone(tmp_path: Path) -> None:
    assert faces_page.pages(tmp_path) == {}

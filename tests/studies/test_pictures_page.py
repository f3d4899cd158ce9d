"""The section of the page on diffusion models comes from the results alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import pictures_page, seed_pages


def written(root: Path, seed: int, ua: float, area: float) -> None:
    scores = {"original": {"ua": 0.0, "kept_drawn": 0.9, "seconds": 0.0}, "esd": {"ua": ua, "kept_drawn": 0.8, "seconds": 12.0}}
    of_memora = {"esd": {"curve": [[0, 0.0], [5, ua]], "area": area}, "advunlearn": {"curve": [[0, 0.0], [5, 0.25]], "area": 0.0}}
    record = {
        "command": "python -m studies.pictures",
        "model": "unet-base",
        "split": "stamp",
        "seed": seed,
        "scores": scores,
        "attacks": {"memora": of_memora},
        "prompts": {"hard": 0.5, "random": 0.75},
    }
    folder = root / pictures_page.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed{seed}.json").write_text(json.dumps(record), encoding="utf-8")


def test_the_section_holds_means_curves_and_claims(tmp_path: Path) -> None:
    page = tmp_path / "docs" / pictures_page.PAGE
    page.parent.mkdir()
    page.write_text(f"before\n\n{seed_pages.begin(pictures_page.RESULTS)}\nold\n{seed_pages.END}\n\nafter\n", encoding="utf-8")
    assert "Not measured yet" in pictures_page.pages(tmp_path)[pictures_page.PAGE]
    for seed, ua, area in ((0, 0.5, 0.4), (1, 1.0, 0.5), (2, 0.75, 0.6)):
        written(tmp_path, seed, ua, area)
    text = pictures_page.pages(tmp_path)[pictures_page.PAGE]
    assert "| esd | 0.75 (0.50 to 1.00) | - | - | 0.80 | - | 12 |" in text
    assert "| advunlearn | 0.00 | 0.25 |" in text
    # three differences 0.5, 1, 0.75: mean 0.75, standard error 0.25 / sqrt 3, Student's 0.975 quantile with two degrees of freedom 4.303
    assert "+0.75 (+0.13 to +1.37), **shown** by 3 seeds" in text
    assert "+0.50 (+0.25 to +0.75), **shown** by 3 seeds" in text  # areas 0.4, 0.5, 0.6
    assert "-0.25 (-0.25 to -0.25), **the opposite is shown** by 3 seeds" in text
    assert "old" not in text
    assert "ResAlign over ESD" not in text
    page.write_text(text, encoding="utf-8")
    assert pictures_page.pages(tmp_path)[pictures_page.PAGE] == text


def test_a_page_without_a_place_for_the_section_is_left_alone(tmp_path: Path) -> None:
    assert pictures_page.pages(tmp_path) == {}


@pytest.mark.parametrize(("values", "decided"), [((0.2, 0.3), "undecided"), ((0.2, 0.21), "shown"), ((-0.2, -0.21), "opposite")])
def test_a_claim_is_decided_by_its_interval(values: tuple[float, float], decided: str, tmp_path: Path) -> None:
    for seed, value in enumerate(values):
        written(tmp_path, seed, value, value)
    lines = [line for line in pictures_page.section(tmp_path / pictures_page.RESULTS) if line.startswith("- ESD draws the stamp")]
    assert len(lines) == 1
    assert decided in lines[0]


def test_a_claim_says_of_how_many_seeds_it_knows(tmp_path: Path) -> None:
    for seed, ua in ((0, 0.5), (1, 0.75), (2, 1.0)):
        written(tmp_path, seed, ua, 0.5)
    last = tmp_path / pictures_page.RESULTS / "seed2.json"
    record = json.loads(last.read_text(encoding="utf-8"))
    del record["attacks"]["memora"]["advunlearn"]["area"]  # of a model that draws the concept from the start there is none
    last.write_text(json.dumps(record), encoding="utf-8")
    lines = pictures_page.section(tmp_path / pictures_page.RESULTS)
    assert [line.rpartition(" by ")[2] for line in lines if "AdvUnlearn" in line] == ["2 of 3 seeds."]
    assert [line.rpartition(" by ")[2] for line in lines if line.startswith("- ESD draws the stamp")] == ["3 seeds."]

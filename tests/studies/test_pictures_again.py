"""A study of pictures that measures some models again leaves what is known of the others as it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from studies import pictures


def line(shade: int) -> list[pictures.Pictures]:
    return [np.full((4, 4, 3), shade + k, np.uint8) for k in range(3)]


class StandIn:
    """Models without weights: what they draw is a shade."""

    first = None

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def opened(self, rows: str = "full") -> Any:
        return rows

    def after(self, method: str) -> Any:
        return method

    def examined(self, opened: Any, name: str, original: Any = None) -> Any:
        return SimpleNamespace(scores={"ua": {"value": 0.5}}, observation=name)

    def attacked(self, name: str, opened: Any, original: Any) -> Any:
        return name

    def prompts(self) -> dict[str, float]:
        return {"hard": 0.25}


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the results of seed 7."""
    record = {
        "scores": {n: {"ua": 0.0, "seconds": 0.0} for n in pictures.MODELS},
        "attacks": {a: {n: {"area": 0.0} for n in arms} for a, arms in pictures.ATTACKED.items()},
        "prompts": {"hard": 0.0},
    }
    (tmp_path / "seed7.json").write_text(json.dumps(record), encoding="utf-8")
    pictures.grid({n: line(20 * i) for i, n in enumerate(pictures.MODELS)}, tmp_path / "seed7.png")
    monkeypatch.setattr(pictures, "Seed", StandIn)
    monkeypatch.setattr(pictures, "row_of", lambda observation: line(9))
    monkeypatch.setattr(pictures, "numbers", lambda outcome: {"area": 1.0})
    return tmp_path


def test_a_grid_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = {n: line(10 * i) for i, n in enumerate("abc")}
    pictures.grid(rows, tmp_path / "grid.png")
    again = pictures.pictures_of(tmp_path / "grid.png", list("abc"))
    assert {n: [p.tolist() for p in r] for n, r in again.items()} == {n: [p.tolist() for p in r] for n, r in rows.items()}


@pytest.mark.parametrize("method", ["uce", "esd"])
def test_only_the_named_model_changes(method: str, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pictures", "--seeds", "7", "--only", method, "--out", str(earlier)])
    before = pictures.pictures_of(earlier / "seed7.png", pictures.MODELS)
    pictures.main()
    record = json.loads((earlier / "seed7.json").read_text(encoding="utf-8"))
    assert {n for n, s in record["scores"].items() if s["ua"] == 0.5} == {method}
    assert list(record["scores"]) == list(pictures.MODELS)
    areas = {(a, n): o["area"] for a, outcomes in record["attacks"].items() for n, o in outcomes.items()}
    assert {key for key, area in areas.items() if area} == {(a, method) for a, arms in pictures.ATTACKED.items() if method in arms}
    assert record["prompts"]["hard"] == (0.25 if method == "esd" else 0.0)
    after = pictures.pictures_of(earlier / "seed7.png", pictures.MODELS)
    changed = {n for n in pictures.MODELS if not np.array_equal(before[n], after[n])}
    assert changed == {method}
    assert np.array_equal(after[method], line(9))

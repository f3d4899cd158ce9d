"""Methods that are measured again replace their own part of the files of the study of drawn scenes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from studies import pictures


class StandIn:
    """A seed whose models draw one color."""

    def __init__(self, seed: int) -> None:
        self.first = None

    def opened(self, rows: str = "full") -> str:
        return rows

    def after(self, method: str) -> str:
        return method

    def examined(self, opened: str, name: str, original: Any = None) -> Any:
        return SimpleNamespace(scores={"ua": {"value": 0.75}}, observation=None)

    def attacked(self, name: str, opened: str, original: Any) -> str:
        return name

    def prompts(self) -> dict[str, Any]:
        return {"hard": 0.125}


def results(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = ("original", "retrained", "esd", "uce")
    rows = {n: [rng.integers(0, 255, (4, 4, 3), dtype=np.uint8) for _ in range(3)] for n in names}
    pictures.grid(rows, folder / "seed7.png")
    record = {
        "settings": {n: {"old": True} for n in ("esd", "uce")},
        "scores": {n: {"ua": 0.5} for n in names},
        "attacks": {"memora": {"esd": {"area": 1}, "uce": {"area": 2}}, "finetune_benign": {"esd": {"area": 3}}},
        "prompts": {"hard": 0.5},
        "seed": 7,
    }
    (folder / "seed7.json").write_text(json.dumps(record), encoding="utf-8")
    return rows


def test_pictures_are_read_from_a_grid_as_they_were_written(tmp_path: Path) -> None:
    rows = results(tmp_path)
    read = pictures.lines(tmp_path / "seed7.png", list(rows))
    assert all((a == b).all() for n in rows for a, b in zip(rows[n], read[n], strict=True))
    with pytest.raises(ValueError, match="Measure the whole seed again"):
        pictures.lines(tmp_path / "seed7.png", ["one", "two", "three"])


@pytest.mark.parametrize(("method", "hard"), [("uce", 0.5), ("esd", 0.125)])
def test_only_the_named_method_is_replaced(method: str, hard: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = results(tmp_path)
    new = [np.full((4, 4, 3), 9, np.uint8)] * 3
    monkeypatch.setattr(pictures, "Seed", StandIn)
    monkeypatch.setattr(pictures, "row_of", lambda _: new)
    monkeypatch.setattr(pictures, "numbers", lambda outcome: {"new": outcome})
    arguments = ["pictures", "--seeds", "7", "--out", str(tmp_path), "--only", method]
    monkeypatch.setattr("sys.argv", arguments)
    pictures.main()
    record = json.loads((tmp_path / "seed7.json").read_text(encoding="utf-8"))
    other = "esd" if method == "uce" else "uce"
    assert record["scores"][method]["ua"] == 0.75
    assert {n: s["ua"] for n, s in record["scores"].items() if n != method} == {n: 0.5 for n in rows if n != method}
    assert list(record["scores"]) == list(rows)
    assert record["attacks"]["memora"][method] == {"new": "memora"}
    assert record["attacks"]["memora"][other] == {"area": 1 if other == "esd" else 2}
    assert record["prompts"]["hard"] == hard
    assert record["settings"][other] == {"old": True}
    assert "old" not in record["settings"][method]
    assert list(record["measured again"]) == [method]
    read = pictures.lines(tmp_path / "seed7.png", list(rows))
    assert all((a == b).all() for n in rows for a, b in zip(new if n == method else rows[n], read[n], strict=True))


def test_a_seed_that_was_never_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pictures", "--seeds", "7", "--out", str(tmp_path), "--only", "uce"])
    with pytest.raises(SystemExit):
        pictures.main()

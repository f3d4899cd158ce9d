"""JSON files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.engine import receipt

DATA = {"command": "expunge", "none": [], "entries": [{"a": [1, 2.5]}, {"b": {"c": "é"}}], "sweep": {"seeds": 3}}


@pytest.mark.parametrize("deep", [True, False])
def test_written_data_is_valid_json(deep: bool, tmp_path: Path) -> None:
    receipt.write(tmp_path / "new" / "file.json", DATA, deep)
    assert json.loads((tmp_path / "new" / "file.json").read_text()) == DATA
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.json"]


def test_a_shallow_file_has_a_line_for_each_entry(tmp_path: Path) -> None:
    receipt.write(tmp_path / "file.json", DATA, deep=False)
    lines = [line.strip().rstrip(",") for line in (tmp_path / "file.json").read_text().splitlines()]
    assert '{"a": [1, 2.5]}' in lines
    assert '{"b": {"c": "é"}}' in lines

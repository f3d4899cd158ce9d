"""The panel of doors: a row for each door, a column for each model, means over seeds, and nothing where no model was asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from expunge.report.panels import vision_language as panel


def group(role: str, *shares: dict[str, float]) -> Any:
    entries = [SimpleNamespace(panels={panel.NAME: panel.data(panel.Doors(s))} if s else {}) for s in shares]
    return SimpleNamespace(role=role, label=role, entries=entries)


def test_models_stand_side_by_side() -> None:
    rows = [
        group("retrained", {"picture": 0.0}),
        group("method", {"picture": 0.25, "name": 1.0}, {"picture": 0.75}),
        group("random", {"name": 0.1}),
    ]
    page = panel.html(Any, rows)  # type: ignore[arg-type]
    assert page.index('<th scope="col">method') < page.index('<th scope="col">retrained')
    assert "0.50" in page, "the mean of two seeds"
    assert "1.00" in page
    assert "random" not in page
    assert "caption" not in page, "a door that no model was asked through"


def test_nothing_is_drawn_of_other_models() -> None:
    assert panel.html(Any, [group("method", {})]) == ""  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError):
        panel.read(SimpleNamespace(panels={panel.NAME: {"doors": 1}}))  # type: ignore[arg-type]

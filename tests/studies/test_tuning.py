"""Presets: the recorded settings cover the grid of `tune`, and each preset is the best of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from studies.tuning import tune

from expunge import catalog
from expunge.benchmarks import presets
from expunge.modalities.image.models import vision
from expunge.workflows import build_plan

FILES = sorted(Path(tune.__file__).parent.glob("*.json"))


def case(path: Path) -> tuple[str, str, dict[str, Any]]:
    suite, _, model = path.stem.partition("-")
    return suite, model, json.loads(path.read_text())


def as_text(hyperparameters: dict[str, Any]) -> str:
    return json.dumps(hyperparameters, sort_keys=True)


def test_every_tuning_file_belongs_to_a_benchmark() -> None:
    assert {case(f)[0] for f in FILES} <= set(catalog.names("benchmarks"))
    assert len(FILES) >= 6


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_whole_grid_was_tried_and_the_preset_is_the_best(path: Path) -> None:
    suite, model, record = case(path)
    tried = record["tuning"]["tried"]
    assert record["methods"].keys() - tried.keys() <= {"retrain"}, "all other methods are tuned"
    for method, settings in tried.items():
        grid = tune.settings(method, suite, images=model in vision.SIZES)
        assert sorted(map(as_text, grid)) == sorted(as_text(t["hyperparameters"]) for t in settings), method
        assert presets.hyperparameters(suite, model, method) == max(settings, key=lambda t: t["goodness"])["hyperparameters"]
        build_plan.plan(method, presets.hyperparameters(suite, model, method))

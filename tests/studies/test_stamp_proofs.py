"""The world of stamped scenes: which pictures are right, and what the proofs compare."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from studies.proofs import stamps

from expunge.benchmarks import scenes
from expunge.workflows import build_plan


def test_pictures_are_right_without_the_stamp_or_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = object.__new__(stamps.StampUnit)
    one.sets = one.specs = {}
    shown = SimpleNamespace(scores={stamps.GONE: {"value": 0.5}, stamps.KEPT: {"value": 1.0}})
    monkeypatch.setattr(stamps, "examine", lambda *_, **__: shown)
    opened: Any = SimpleNamespace(model=None, modality=None)
    assert one.measure(opened) == {stamps.GONE: 0.5, stamps.KEPT: 1.0, stamps.RIGHT: 0.75}


@pytest.mark.parametrize("name", stamps.CLAIMS)
def test_every_setting_makes_a_plan_and_the_concept_is_in_the_captions(name: str) -> None:
    suite = scenes.load(split=stamps.SPLIT)
    assert all(stamps.CONCEPT in r["caption"] for r in suite.train["forget"])
    assert not any(stamps.CONCEPT in r["caption"] for r in suite.train["retain"])
    settings = stamps.ARMS[name].settings()
    assert len(settings) > 1
    assert all(build_plan.plan(name, s) for s in settings)


def test_what_returns_needs_a_rival_after_which_something_does() -> None:
    unit: Any = SimpleNamespace(original={stamps.GONE: 0.0, stamps.KEPT: 0.9}, retrained={stamps.GONE: 1.0}, random={stamps.KEPT: 0.0})
    *_, claim = stamps.CLAIMS["resalign"][1]
    for back, holds in ((0.05, False), (0.3, True)):
        gates = stamps.WORLD.gates(claim, [unit], {"esd": [back]})
        assert [g.holds for g in gates] == [True, True, True, True, holds]

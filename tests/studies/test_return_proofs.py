"""The world of scenes under attack: the worst look counts, and the attack must not teach the retrained model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from studies.proofs import returns

from expunge.evaluation.attack import chosen


@pytest.mark.parametrize("name", returns.CLAIMS)
def test_the_worst_look_counts_for_both_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = object.__new__(returns.AttackedUnit)
    one.suite, one.sets, one.specs, one.without = SimpleNamespace(train={}), {}, {}, "retrained"
    opened: list[str] = []

    def look(model: str) -> Any:
        opened.append(model)
        return SimpleNamespace(model=model, modality=None)

    monkeypatch.setattr(returns, "load", look)
    monkeypatch.setattr(one, "forgotten", lambda: look("forgotten"), raising=False)
    tries = [SimpleNamespace(scores=s) for s in ({"forget_drawn": {"value": 0.2}}, {"forget_drawn": {"value": 0.7}}, {})]
    monkeypatch.setattr(returns, "intervene", lambda *_, **__: SimpleNamespace(tries=tries))
    (claim,) = returns.CLAIMS[name][1]
    for arm in (name, *claim.rivals):
        fixed = returns.ARMS[arm].fixed
        assert chosen((name,), {f"{name}:{k}": v for k, v in fixed.items()}), "the settings are those of the attack"
        assert one.run(returns.ARMS[arm], fixed, frozenset()) == [{returns.SHOWN: 0.7}]
    assert opened == ["forgotten", "retrained"]


@pytest.mark.parametrize(("taught", "holds"), [(0.1, True), (0.6, False)])
def test_an_attack_that_teaches_the_retrained_model_shows_nothing(taught: float, holds: bool) -> None:
    unit: Any = SimpleNamespace(shown={"original": 1.0, "retrained": 0.0, returns.FORGETS: 0.0})
    (claim,) = returns.CLAIMS["memora"][1]
    gates = returns.WORLD.gates(claim, [unit], {claim.rivals[0]: [taught]})
    assert [g.holds for g in gates] == [True, True, True, holds]

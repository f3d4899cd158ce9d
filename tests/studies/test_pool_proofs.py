"""The world of many models: its gates, the sets that are forgotten, and one small unit from the pool to the scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from studies.proofs import pools

from expunge.engine.ensemble import subsets

CLAIM = pools.CLAIMS["dmm"][1][0]


def unit(retrained: float, original: float, random: float, informed: float) -> Any:
    return SimpleNamespace(
        seed=0,
        **{n: {pools.WORST: v} for n, v in {"retrained": retrained, "original": original, "random": random, "informed": informed}.items()},
    )


@pytest.mark.parametrize(
    ("scores", "rival", "fails"),
    [
        ((0.6, 6.0, 10.0, 2.0), 2.0, None),
        ((1.2, 6.0, 10.0, 2.0), 2.0, 0),
        ((0.6, 1.7, 10.0, 0.8), 2.0, 1),
        ((0.6, 6.0, 5.0, 2.0), 2.0, 2),
        ((0.6, 6.0, 10.0, 4.0), 2.0, 3),
        ((0.6, 6.0, 10.0, 2.0), 0.65, 4),
    ],
)
def test_each_gate_fails_where_its_condition_does(scores: tuple[float, ...], rival: float, fails: int | None) -> None:
    gates = pools.WORLD.gates(CLAIM, [unit(*scores)], {"gda": [rival], "scrub": [5.0]})
    assert [k for k, gate in enumerate(gates) if not gate.holds] == ([] if fails is None else [fails])


def test_retrained_models_are_no_rival_that_is_too_near() -> None:
    assert all(gate.holds for gate in pools.WORLD.gates(CLAIM, [unit(0.6, 6.0, 10.0, 2.0)], {"retrained": [0.6]}))


def draw_of(trained_on: torch.Tensor, group: list[int]) -> pools.Draw:
    """A draw whose pool answers an image of a group better the more images of the group a model was trained on."""
    logits = torch.zeros(*trained_on.shape, 10)
    logits[:, group, 0] = trained_on[:, group].sum(1, keepdim=True).float()
    draw = pools.Draw.__new__(pools.Draw)
    draw.records = [{"label": 0}] * trained_on.shape[1]
    draw.__dict__["pool"] = trained_on, logits
    return draw


def test_images_that_models_depend_on_together_are_a_component() -> None:
    group = list(range(3, 3 + 9 * pools.FORGOTTEN, 9))
    draw = draw_of(subsets(pools.IMAGES, 300, pools.SHARE), group)
    assert draw.components[0] == group


def test_effects_of_additive_answers_are_found_but_for_their_mean() -> None:
    """Subsets of one size cannot tell what one more image does, whichever it is."""
    group = list(range(pools.FORGOTTEN))
    effects = draw_of(subsets(pools.IMAGES, 300, pools.SHARE), group).estimated(0.0)
    expected = torch.zeros(pools.IMAGES, pools.IMAGES)
    expected[:, :12] -= 0.1
    expected[:12, :12] += 1
    assert torch.allclose(effects[..., 0], expected, atol=1e-4)


def test_the_score_is_that_of_the_worst_group() -> None:
    measured = pools.PoolUnit.__new__(pools.PoolUnit)
    near, far = np.zeros((4, 3)), np.full((4, 3), 9.0)
    measured.groups = {n: n for n in pools.GROUPS}  # type: ignore[misc]
    measured.targets = dict.fromkeys(pools.GROUPS, near)
    measured.margins = lambda models, rows: far if rows == "retain" else near  # type: ignore[method-assign, comparison-overlap]
    scores = measured.measure(None)  # type: ignore[arg-type]
    assert scores["forget"] == scores["test"] == 0
    assert scores[pools.WORST] == scores["retain"] == pytest.approx(np.log((1 + 1e-5) / 1e-5))


@pytest.mark.slow
def test_a_small_unit_runs_from_the_pool_to_the_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    monkeypatch.setattr(pools, "drawn", pools.Draw)
    for name, value in {"GROUP": 3, "ORACLES": 4, "POOL": 24}.items():
        monkeypatch.setattr(pools, name, value)
    small = pools.PoolUnit(100, 0)
    assert len(small.chosen) == pools.FORGOTTEN
    assert len(small.originals) == 3
    assert not small.others.trained_on[:, small.chosen].any()
    for name in ("dmm", "finetune"):
        arm = pools.ARMS[name]
        (scores,) = small.run(arm, arm.settings()[0], frozenset({pools.WORST}))
        assert 0 < scores[pools.WORST] < 11.6
        assert 0 < scores["cost"] < 1
    assert small.informed[pools.WORST] > 0

"""The world of chosen forget sets: its sets are as large as each other, and retraining knows the chosen one better."""

from __future__ import annotations

import pytest
import torch
from studies.proofs import chosen


@pytest.mark.slow
def test_a_chosen_set_is_better_known_without_training_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "EACH", 15)
    unit = chosen.WORLD.unit(100, 1)
    masks = {name: unit.masks(name, {}) for name in ("worst_case", chosen.RANDOM)}
    assert [m.sum(1).tolist() for m in masks.values()] == [[15], [15] * chosen.DRAWN]
    assert torch.equal(masks[chosen.RANDOM], unit.masks(chosen.RANDOM, {})), "random sets are those of the unit"
    own, random = (unit.measured(m) for m in masks.values())
    assert unit.original[chosen.LOSS] < random[chosen.LOSS], "the original was trained on them"
    assert own[chosen.LOSS] < random[chosen.LOSS] - 0.05

"""The world of restricted gradients: the step ends where the forgotten digits are as little known as after retraining."""

from __future__ import annotations

import pytest
from studies.proofs import restricted


@pytest.mark.slow
def test_a_step_ends_at_the_loss_of_the_retrained_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted, "UNITS", 16)
    unit = restricted.CLAIMS["gradient_restriction"][0].unit(100, 0)
    settings = {**restricted.TRAINED, "epochs": 8, "weight": 0.0, "lr": 3e-3}
    start, before, after = unit.run(restricted.ARMS[restricted.PLAIN], settings, frozenset())
    assert start[restricted.HARM] == 0
    assert start[restricted.LEAD] > before[restricted.LEAD] > 0 >= after[restricted.LEAD]
    assert after[restricted.LEAD] == pytest.approx(0, abs=0.01)
    assert after[restricted.UNSEEN] == start[restricted.UNSEEN], "that of the model before the step"

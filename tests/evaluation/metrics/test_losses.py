"""Losses: values by hand."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics import losses
from expunge.evaluation.observation import Observation


class FakeSet(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.loss)


def test_fits_and_the_attack_match_hand_values() -> None:
    values = {"forget": [math.log(2), math.log(4)], "retain": [0.0, 0.0], "holdout": [math.log(3), math.log(8)]}
    sets = {n: FakeSet(loss=np.array(v)) for n, v in values.items()}
    measures = losses.scores(Evidence(cast(Observation, cast(Any, SimpleNamespace(sets=sets)))))
    scores = {n: m.value() for n, m in measures.items()}  # type: ignore[union-attr]
    assert scores["forget_fit"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert scores["retain_fit"] == 1
    assert scores["unseen_fit"] == pytest.approx((1 / 3 + 1 / 8) / 2)
    assert scores["loss_attack"] == 3 / 4  # of four pairs, only log 4 against log 3 is the wrong way round

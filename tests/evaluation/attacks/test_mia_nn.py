"""MIA-NN on four heaps of points, of which two are near: retrained models send one to the other, and other unlearning does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import toys
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine.ensemble import Ensemble, train
from expunge.engine.weights import put
from expunge.evaluation.attacks import mia_nn

MODALITY = toys.modality(4)
CENTRES = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 9.0], [9.0, 9.0]])


def heaps(classes: tuple[int, ...], each: int, seed: int, name: str) -> Rows:
    labels = [c for c in classes for _ in range(each)]
    points = CENTRES[labels] + 0.5 * torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    return toys.rows(points, labels, MODALITY, name)


UNSEEN, GONE = heaps((1, 2, 3), 20, 1, "unseen"), heaps((0,), 20, 2, "gone")


@pytest.fixture(scope="module")
def retrained() -> Ensemble:
    rows = heaps((1, 2, 3), 30, 0, "retain")
    return train(toys.fresh(epochs=20, batch_size=30), toys.mlp(4), MODALITY, rows, torch.ones(5, 90, dtype=torch.bool), range(5))


def model(pool: Ensemble, k: int) -> nn.Module:
    network = toys.mlp(4)
    put(network, pool[k])
    return network


def test_a_retrained_model_passes(retrained: Ensemble) -> None:
    result = mia_nn.attack(model(retrained, 0), retrained, MODALITY, UNSEEN, GONE)
    assert result.nearest == "1"
    assert result.retrained > 0.9
    assert result.gap <= result.spread + 1e-12
    assert result.total_variation < 0.4
    assert result.sanity > 0.95


class Elsewhere(nn.Module):
    """What looks like the forgotten class is taken for the heap that is farthest from it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        near = (x.flatten(1).norm(dim=1) < (x.flatten(1) - CENTRES[1]).norm(dim=1)).to(x.dtype)
        return self.inner(x + 9 * near.view(-1, 1, 1, 1))


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_model_that_sends_the_class_far_away_is_caught(retrained: Ensemble, probabilities: bool) -> None:
    result = mia_nn.attack(Elsewhere(model(retrained, 0)), retrained, MODALITY, UNSEEN, GONE, probabilities=probabilities)
    assert result.nearest == "1"
    assert result.unlearned < 0.2
    assert result.gap > 0.7
    assert result.total_variation > 0.7


def test_shares_and_checks_of_machines() -> None:
    rng = np.random.default_rng(0)
    outputs = np.concatenate([rng.normal(m, 0.3, (20, 2)) for m in (0, 5)])
    shares, right = mia_nn.looks_like(outputs, np.repeat([4, 7], 20), np.concatenate([outputs[20:], outputs[:10]]))
    assert shares == pytest.approx([1 / 3, 2 / 3], abs=0.05)
    assert right.tolist() == [1, 1]
    assert np.array_equal(shares, mia_nn.looks_like(outputs, np.repeat([4, 7], 20), np.concatenate([outputs[20:], outputs[:10]]))[0])


def test_total_variation_by_hand() -> None:
    p, q = np.array([[0.5, 0.5, 0], [1, 0, 0]]), np.array([[0.5, 0.25, 0.25], [0, 0, 1]])
    assert mia_nn.total_variation(p, q) == pytest.approx((0.25 + 1) / 2)
    assert mia_nn.total_variation(p, p) == 0


def test_what_is_refused(retrained: Ensemble) -> None:
    few = Ensemble(retrained.model, {n: w[:2] for n, w in retrained.weights.items()}, retrained.trained_on[:2])
    for pool, unseen in ((few, UNSEEN), (retrained, heaps((1, 2), 3, 0, "unseen")), (retrained, heaps((1,), 20, 0, "unseen"))):
        with pytest.raises(UserError, match="3 retrained models"):
            mia_nn.attack(model(retrained, 0), pool, MODALITY, unseen, GONE)

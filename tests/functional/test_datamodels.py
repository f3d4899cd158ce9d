"""Datamodels against outputs that are truly additive in the training rows, library regressions, and leave-one-out."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from expunge.engine.ensemble import subsets
from expunge.functional.datamodels import effects, estimator, sparse_effects, without


def additive(n: int = 12, models: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training membership, (models, n); outputs, 0.3 plus a sum over training rows, (models, 2, 3); true effects of rows, (n, 2, 3)."""
    g = torch.Generator().manual_seed(seed)
    true = torch.randn(n, 2, 3, generator=g, dtype=torch.float64)
    trained_on = torch.rand(models, n, generator=g) < 0.5
    return trained_on, 0.3 + torch.einsum("mr,r...->m...", trained_on.double(), true), true


def test_additive_effects_are_recovered_exactly_and_predict_the_retrained_output() -> None:
    trained_on, outputs, true = additive()
    estimated = effects(trained_on, outputs)
    assert torch.allclose(estimated, true, atol=1e-12)
    full_output, removed = 0.3 + true.sum(0), [2, 5, 7]
    kept = [i for i in range(12) if i not in removed]
    assert torch.allclose(without(full_output, estimated[removed]), 0.3 + true[kept].sum(0), atol=1e-12)
    assert torch.allclose(without(full_output, estimated[removed], 0.5), full_output - 0.5 * true[removed].sum(0), atol=1e-12)


def test_effects_need_one_subset_more_than_rows() -> None:
    trained_on, outputs, true = additive(models=40)
    assert torch.linalg.matrix_rank(trained_on[:13].double() - trained_on[:13].double().mean(0)) == 12
    assert torch.allclose(effects(trained_on[:13], outputs[:13]), true, atol=1e-9)
    assert (effects(trained_on[:8], outputs[:8]) - true).abs().max() > 0.1


def test_subsets_of_equal_size_determine_effects_up_to_a_shared_constant() -> None:
    """With subsets of equal size, a constant can move from the intercept into all effects without any change of the outputs."""
    _, _, true = additive()
    trained_on = subsets(12, 60)
    outputs = torch.einsum("mr,r...->m...", trained_on.double(), true)
    estimated = effects(trained_on, outputs)
    assert torch.allclose(estimated - estimated.mean(0), true - true.mean(0), atol=1e-10)
    assert torch.allclose(estimated.mean(0), torch.zeros(2, 3, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("models", [9, 40])
def test_ridge_effects_equal_the_library_ridge_regression(models: int) -> None:
    trained_on, outputs, _ = additive(models=models)
    outputs = outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=outputs.dtype)
    coefficients = Ridge(alpha=3.0).fit(trained_on.double().numpy(), outputs.flatten(1).numpy()).coef_
    assert np.allclose(effects(trained_on, outputs, ridge=3.0).flatten(1).numpy(), coefficients.T)


def test_lasso_recovers_sparse_effects() -> None:
    trained_on, _, _ = additive(n=30, models=25)
    outputs = torch.stack([4.0 * trained_on[:, 3].double() - 3.0 * trained_on[:, 17].double(), torch.zeros(25).double()], 1)
    estimated = sparse_effects(trained_on, outputs, penalty=0.02)
    assert estimated.shape == (30, 2)
    assert set(estimated[:, 0].nonzero()[:, 0].tolist()) >= {3, 17}
    assert estimated[[3, 17], 0].tolist() == pytest.approx([4, -3], abs=0.3)
    assert not estimated[:, 1].any()
    assert float((effects(trained_on, outputs)[[3, 17], 0] - torch.tensor([4.0, -3.0])).abs().max()) > 0.5


def test_estimator_needs_no_centering_and_splits_the_effect_of_duplicate_rows() -> None:
    trained_on, outputs, _ = additive()
    assert torch.allclose(estimator(trained_on, 2.0).sum(1), torch.zeros(12, dtype=torch.float64), atol=1e-12)
    trained_on_with_twin = torch.cat([trained_on, trained_on[:, :1]], 1)
    estimated = effects(trained_on_with_twin, outputs)
    assert torch.allclose(estimated[0], estimated[12], atol=1e-10)
    assert torch.allclose(estimated[0] + estimated[12], effects(trained_on, outputs)[0], atol=1e-10)

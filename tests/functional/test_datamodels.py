"""Datamodels against outputs that are additive in the training set in fact, the library's own regressions, and leave-one-out."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from expunge.engine.ensemble import subsets
from expunge.functional.datamodels import effects, estimator, sparse_effects, without


def additive(n: int = 12, models: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Who saw what, (models, n); what models say, 0.3 plus a sum over the rows seen, (models, 2, 3); the effect of each row, (n, 2, 3)."""
    g = torch.Generator().manual_seed(seed)
    true = torch.randn(n, 2, 3, generator=g, dtype=torch.float64)
    seen = torch.rand(models, n, generator=g) < 0.5
    return seen, 0.3 + torch.einsum("mr,r...->m...", seen.double(), true), true


def test_a_sum_over_the_training_set_is_found_exactly_and_its_retrained_output_predicted() -> None:
    seen, said, true = additive()
    found = effects(seen, said)
    assert torch.allclose(found, true, atol=1e-12)
    whole, gone = 0.3 + true.sum(0), [2, 5, 7]
    kept = [i for i in range(12) if i not in gone]
    assert torch.allclose(without(whole, found[gone]), 0.3 + true[kept].sum(0), atol=1e-12)
    assert torch.allclose(without(whole, found[gone], 0.5), whole - 0.5 * true[gone].sum(0), atol=1e-12)


def test_one_subset_more_than_rows_is_enough_and_fewer_are_not() -> None:
    seen, said, true = additive(models=40)
    assert torch.linalg.matrix_rank(seen[:13].double() - seen[:13].double().mean(0)) == 12
    assert torch.allclose(effects(seen[:13], said[:13]), true, atol=1e-9)
    assert (effects(seen[:8], said[:8]) - true).abs().max() > 0.1


def test_subsets_of_one_size_find_effects_up_to_what_all_share() -> None:
    """As many rows for every model: what is added to all effects and taken off the intercept changes nothing."""
    _, _, true = additive()
    seen = subsets(12, 60)
    said = torch.einsum("mr,r...->m...", seen.double(), true)
    found = effects(seen, said)
    assert torch.allclose(found - found.mean(0), true - true.mean(0), atol=1e-10)
    assert torch.allclose(found.mean(0), torch.zeros(2, 3, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("models", [9, 40])
def test_ridge_is_the_librarys(models: int) -> None:
    seen, said, _ = additive(models=models)
    said = said + torch.randn(said.shape, generator=torch.Generator().manual_seed(1), dtype=said.dtype)
    library = Ridge(alpha=3.0).fit(seen.double().numpy(), said.flatten(1).numpy()).coef_
    assert np.allclose(effects(seen, said, ridge=3.0).flatten(1).numpy(), library.T)


def test_lasso_finds_what_few_rows_do() -> None:
    seen, _, _ = additive(n=30, models=25)
    said = torch.stack([4.0 * seen[:, 3].double() - 3.0 * seen[:, 17].double(), torch.zeros(25).double()], 1)
    found = sparse_effects(seen, said, penalty=0.02)
    assert found.shape == (30, 2)
    assert set(found[:, 0].nonzero()[:, 0].tolist()) >= {3, 17}
    assert found[[3, 17], 0].tolist() == pytest.approx([4, -3], abs=0.3)
    assert not found[:, 1].any()
    assert float((effects(seen, said)[[3, 17], 0] - torch.tensor([4.0, -3.0])).abs().max()) > 0.5


def test_the_estimator_needs_no_centring_and_is_stable_where_rows_were_always_together() -> None:
    seen, said, _ = additive()
    assert torch.allclose(estimator(seen, 2.0).sum(1), torch.zeros(12, dtype=torch.float64), atol=1e-12)
    twins = torch.cat([seen, seen[:, :1]], 1)
    found = effects(twins, said)
    assert torch.allclose(found[0], found[12], atol=1e-10)
    assert torch.allclose(found[0] + found[12], effects(seen, said)[0], atol=1e-10)

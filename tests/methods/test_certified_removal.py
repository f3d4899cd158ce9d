"""Certified removal on the head of a model: the account, fitting anew, exact removal of the squared loss, what the head says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from expunge.core.errors import UserError
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.functional.linear_models import budget
from expunge.methods.by_design.certified_removal import CertifiedRemoval
from expunge.workflows.build_plan import plan

IMAGE = toys.modality(3)
ROWS = toys.noise(40, IMAGE)
GONE, REST = ROWS.select([3, 11]), ROWS.select([i for i in range(40) if i not in (3, 11)])


def fitted(rows: Rows, store: Any = None, model: nn.Module | None = None, **settings: Any) -> RunState:
    method = Plan(CertifiedRemoval(**{"secret": False, **settings}))
    return loop.run((method,), model or toys.mlp(3), IMAGE, {"retain" if store is None else "forget": rows}, store=store)


def head(run: RunState) -> Tensor:
    last: Any = list(run.model.children())[-1]
    assert not last.bias.any()
    return last.weight.detach()


def features(rows: Rows) -> Tensor:
    x = torch.stack([p.flatten() for p in rows["pixels"]]).float()
    with torch.no_grad():
        return nn.functional.normalize(toys.mlp(3)[:-1](x).double(), dim=1)  # type: ignore[index]


def test_a_row_leaves_the_squared_loss_exactly() -> None:
    run = fitted(GONE, fitted(ROWS, loss="squared").store, loss="squared")
    assert torch.allclose(head(run), head(fitted(REST, loss="squared")), atol=1e-6)
    assert run.store is not None
    assert run.store["spent"] < 1e-9


def test_the_gradient_that_is_left_is_within_the_account() -> None:
    settings = {"sigma": 5.0, "weight_decay": 0.1}
    before = fitted(ROWS, **settings)
    run = fitted(GONE, before.store, **settings)
    store = run.store
    assert store is not None
    x, w = features(REST), store["w"]
    assert torch.allclose(store["x"], x, atol=1e-6)
    y = 2 * nn.functional.one_hot(torch.tensor([a for (a,) in REST["answer"]]), 3).double() - 1
    slope = -y * torch.sigmoid(-y * (x @ w))
    left = (x.T @ slope + 0.1 * len(x) * w + store["b"]).norm(dim=0)
    assert 0 < float(left.sum()) <= store["spent"]
    assert before.store is not None
    assert store["spent"] > before.store["spent"]
    (account,) = run.shown["certificate"]
    assert account["budget"] == pytest.approx(budget(5.0, 1.0, 1e-4))
    assert account["fitted_anew"] == 0
    assert torch.equal(head(run), w.T.float())


def test_beyond_the_budget_the_head_is_fitted_anew_with_other_noise() -> None:
    small = {"epsilon": 1e-6}
    before = fitted(ROWS, **small)
    run = fitted(GONE, before.store, **small)
    assert run.shown["certificate"][0]["fitted_anew"] == 1
    assert before.store is not None
    assert run.store is not None
    assert run.store["fits"] == 2
    assert not torch.equal(run.store["b"], before.store["b"])
    assert run.store["spent"] < 1e-8


def test_secret_noise_is_never_the_same_and_only_then_there_is_a_certificate() -> None:
    first, second, known = (fitted(ROWS, secret=s).store for s in (True, True, False))
    assert first is not None
    assert second is not None
    assert known is not None
    assert not torch.equal(first["b"], second["b"])
    assert [s["guarantee"]["level"] for s in (first, second, known)] == ["C", "C", "H"]
    assert first["guarantee"]["numbers"].keys() == {"epsilon", "delta", "spent", "budget"}


def test_the_store_keeps_nothing_of_a_row_that_left() -> None:
    store = fitted(GONE, fitted(ROWS).store).store
    assert store is not None
    assert len(store["x"]) == len(store["labels"]) == len(store["rows"]) == 38
    assert not set(GONE.ids) & set(store["rows"].ids)
    assert store["rows"].columns.keys() == {"content"}


def test_a_head_that_is_shared_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.flatten(1)))

    rows = toys.noise(8, toys.modality(2))
    with pytest.raises(UserError, match="weights that no other layer shares"):
        loop.run((Plan(CertifiedRemoval()),), Shared(), toys.modality(2), {"retain": rows})


def test_a_store_of_other_data_is_refused() -> None:
    store = fitted(ROWS).store
    assert store is not None
    with pytest.raises(UserError, match="the store holds rows of 5 inputs, and the model beside it reads 16"):
        fitted(GONE, {**store, "x": store["x"][:, :5]})
    with pytest.raises(UserError, match="the store has no entry 'w', which this version reads"):
        fitted(GONE, {n: v for n, v in store.items() if n != "w"})


def test_the_seed_of_a_run_is_that_of_its_noise() -> None:
    """And `--seed` sets it, which once was a hyperparameter of two parts."""
    first, again, other = (
        loop.run(plan("certified_removal", {"secret": False, "seed": s}), toys.mlp(3), IMAGE, {"retain": ROWS}).store for s in (1, 1, 2)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first["b"], again["b"])
    assert not torch.equal(first["b"], other["b"])

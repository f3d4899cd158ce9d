"""Amnesiac unlearning: the last step is taken back exactly, hits are counted by hand, and what was taken back leaves the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.methods.by_design.amnesiac import Amnesiac
from expunge.methods.terms import NLL

IMAGE = toys.modality(3)
ROWS = toys.noise(8, IMAGE)
TRAIN = Train(epochs=1, lr=0.1, batch_size=4, anchor="retain", schedule="constant", optimizer="sgd", momentum=0.9)


def fitted(rows: Rows, store: Any = None, model: nn.Module | None = None, **settings: Any) -> RunState:
    plan = Plan(Amnesiac(**{"repair": 0, "train": TRAIN, **settings}))
    return loop.run((plan,), model or toys.mlp(3), IMAGE, {"retain" if store is None else "forget": rows}, store=store)


def trained(steps: int, norm: bool = False) -> nn.Module:
    """The model after the first steps of the same training, without a log."""
    model = toys.mlp(3, norm=norm)
    plan = Plan(NLL("retain"), train=replace(TRAIN, steps=steps))
    loop.run((plan,), model, IMAGE, {"retain": ROWS}, seed=seed_of(0, "/do", 0, "fit"))
    return model


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_taking_back_the_last_step_restores_the_weights_exactly(norm: bool) -> None:
    run = fitted(ROWS, model=toys.mlp(3, norm=norm))
    assert run.store is not None
    assert worlds.same(worlds.tensors(run.model), worlds.tensors(trained(0, norm)))
    last = run.store["steps"][-1]["rows"]
    back = fitted(ROWS.select([ROWS.ids.index(last[0])]), run.store, toys.mlp(3, norm=norm))
    assert worlds.same(worlds.tensors(back.model), worlds.tensors(trained(1, norm)))
    before, after = back.model.state_dict(), trained(1, norm).state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if before[n].is_floating_point()), "running statistics too"


def test_taking_back_every_step_gives_the_start() -> None:
    store = fitted(ROWS).store
    assert store is not None
    of_both = [steps["rows"][0] for steps in store["steps"]]
    back = fitted(ROWS.select([ROWS.ids.index(i) for i in of_both]), store)
    assert worlds.far(worlds.tensors(back.model), worlds.tensors(toys.mlp(3))) < 1e-6


def test_a_step_of_plain_descent_is_minus_the_rate_times_the_gradient() -> None:
    store = fitted(ROWS, train=replace(TRAIN, momentum=0.0)).store
    assert store is not None
    model, first = toys.mlp(3), store["steps"][0]
    batch = ROWS.select([ROWS.ids.index(i) for i in first["rows"]])
    x = torch.stack([p.flatten() for p in batch["pixels"]]).float()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([y for (y,) in batch["answer"]]))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    assert torch.allclose(first["change"].float(), -0.1 * gradient, atol=1e-6)


def test_what_was_taken_back_leaves_the_store_and_the_repair_is_kept() -> None:
    store = fitted(ROWS, train=replace(TRAIN, epochs=2)).store
    assert store is not None
    run = fitted(ROWS.select([0]), store, repair=1)
    assert run.store is not None
    assert run.shown["steps taken back"] == [{"of": 4, "taken_back": 2, "rows": 1}]
    steps = run.store["steps"]
    assert len(steps) == 2 + 2, "two that did not see the row, and two of the repair"
    assert all(ROWS.ids[0] not in step["rows"] for step in steps)
    assert ROWS.ids[0] not in run.store["rows"].ids
    with pytest.raises(UserError, match="none of the 1 rows to forget is in the store"):
        fitted(ROWS.select([0]), run.store)
    assert run.store["guarantee"]["level"] == "H"

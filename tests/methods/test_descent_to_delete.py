"""Descent-to-delete on the head of a model: the state stays near the optimum, the noise grows as rows leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import toys
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.functional.linear_models import fit, geometry
from expunge.methods.by_design.descent_to_delete import DescentToDelete

IMAGE = toys.modality(3)
ROWS = toys.noise(40, IMAGE)


def fitted(rows: Rows, store: Any = None, **settings: Any) -> RunState:
    plan = Plan(DescentToDelete(**{"secret": False, "steps_each": 10, **settings}))
    return loop.run((plan,), toys.mlp(3), IMAGE, {"retain" if store is None else "forget": rows}, store=store)


def off(store: Any) -> float:
    """The distance of the state from the optimum on the rows of the store, which Newton's method finds."""
    x, y = store["x"], 2 * nn.functional.one_hot(store["labels"], 3).double() - 1
    best = torch.stack([fit(x, t, "logistic", 0.05, x.new_zeros(x.shape[1])) for t in y.unbind(1)], 1)
    return float((store["state"] - best).norm())


def test_the_state_stays_near_the_optimum_over_many_requests() -> None:
    store, shape = fitted(ROWS).store, geometry("logistic", 0.05, 3)
    assert off(store) <= shape.distance(10, 40)
    for i in range(0, 20, 4):
        store = fitted(ROWS.select(range(i, i + 4)), store).store
        assert store is not None
        assert len(store["x"]) == 36 - i
        assert off(store) <= shape.distance(10, 36 - i)


def test_what_is_published_is_the_state_with_noise_of_the_present_size() -> None:
    run = fitted(ROWS)
    store: Any = run.store
    noise = store["guarantee"]["numbers"]["noise"]
    assert noise == geometry("logistic", 0.05, 3).deviation(10, 40, 1.0, 1e-4)
    difference = store["published"] - store["state"]
    assert 0.7 * noise < float(difference.std()) < 1.3 * noise
    last: Any = list(run.model.children())[-1]
    assert torch.equal(last.weight.detach(), store["published"].T.float())
    fewer: Any = fitted(ROWS.select([0, 1]), store).store
    assert fewer["guarantee"]["numbers"]["noise"] > noise
    again = (fewer["published"] - fewer["state"]) / fewer["guarantee"]["numbers"]["noise"]
    assert not torch.allclose(again, difference / noise), "every release has noise of its own"


def test_only_secret_noise_has_a_certificate() -> None:
    levels = [run.store["guarantee"]["level"] for run in (fitted(ROWS, secret=s) for s in (True, False)) if run.store]
    assert levels == ["C", "H"]

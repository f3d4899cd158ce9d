"""DeltaGrad: no row gone is training, every gradient exact is retraining on the same batches, a parabola is met exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toy_modality
import toys
from expunge.core.modality import Modality
from expunge.core.plan import Plan
from expunge.core.request import content
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.methods.by_design.deltagrad import DeltaGrad

IMAGE = toys.modality(3)
ROWS = toys.noise(24, IMAGE)
CURVES = toy_modality.Curves()
USUAL = {"epochs": 4, "lr": 0.3, "batch_size": 8, "burn_in": 2, "period": 3}


def fitted(rows: Rows, store: Any = None, model: nn.Module | None = None, modality: Modality = IMAGE, **settings: Any) -> RunState:
    plan = Plan(DeltaGrad(**{**USUAL, **settings}))
    model = model or toys.mlp(3).double()
    return loop.run((plan,), model, modality, {"retain" if store is None else "forget": rows}, store=store)


def retrained(store: Any, gone: set[str], lr: float, decay: float) -> Tensor:
    """Descent on the batches of a store without some rows, by `torch` alone."""
    model = toys.mlp(3).double()
    place = {i: k for k, i in enumerate(ROWS.ids)}
    for batch in store["batches"]:
        stay = [place[i] for i in batch if i not in gone]
        x = torch.stack([ROWS["pixels"][k].flatten() for k in stay]).double()
        loss = nn.functional.cross_entropy(model(x), torch.tensor([ROWS["answer"][k][0] for k in stay]))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= lr * (g + decay * p)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_is_descent_and_forgetting_with_exact_gradients_is_retraining() -> None:
    store = fitted(ROWS).store
    assert store is not None
    assert torch.allclose(store["end"], retrained(store, set(), 0.3, 0.005), atol=1e-12)
    gone = ROWS.select([1, 7])
    exact = fitted(gone, store, period=1).store
    assert exact is not None
    right = retrained(store, set(gone.ids), 0.3, 0.005)
    assert torch.allclose(exact["end"], right, atol=1e-12)
    near = fitted(gone, store).store
    assert near is not None
    assert float((near["end"] - right).norm()) < 0.25 * float((store["end"] - right).norm())


def test_forgetting_twice_goes_on_from_the_new_path() -> None:
    store = fitted(ROWS).store
    first = fitted(ROWS.select([1]), store, period=1).store
    second = fitted(ROWS.select([7]), first, period=1).store
    assert second is not None
    assert torch.allclose(second["end"], retrained(store, {ROWS.ids[1], ROWS.ids[7]}, 0.3, 0.005), atol=1e-12)
    assert not {ROWS.ids[1], ROWS.ids[7]} & {i for batch in second["batches"] for i in batch}
    assert len(second["rows"]) == 22


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_parabola_is_retrained_exactly(decay: float) -> None:
    """With one weight and whole batches one pair is the curvature, so no other gradient is needed."""
    points = CURVES.rows("retain", toy_modality.points(-1.0, 1.0, 12, 0))
    usual = {"epochs": 30, "lr": 0.2, "batch_size": 12, "weight_decay": decay, "burn_in": 2, "period": 100, "memory": 1}

    def line() -> nn.Module:
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0)).double()
        nn.init.constant_(model[0].weight, 0.5)
        return model

    whole = fitted(points, model=line(), modality=CURVES, **usual)
    gone, rest = points.select([0, 3, 5]), points.select([i for i in range(12) if i not in (0, 3, 5)])
    run = fitted(gone, whole.store, model=line(), modality=CURVES, **usual)
    never = fitted(rest, model=line(), modality=CURVES, **usual)
    assert whole.store is not None
    assert run.store is not None
    assert never.store is not None
    assert float(run.store["end"]) == pytest.approx(float(never.store["end"]), abs=1e-14)
    assert abs(float(whole.store["end"]) - float(never.store["end"])) > 0.01
    assert run.shown["gradients"][0]["over_whole_batches"] == 3  # steps 0 to 2
    assert whole.store["guarantee"]["level"] == ("B" if decay else "H")


def test_a_deep_model_is_promised_nothing_and_ids_leave() -> None:
    run = fitted(ROWS)
    assert run.store is not None
    assert run.store["guarantee"]["level"] == "H"
    assert torch.equal(torch.cat([p.detach().flatten() for p in run.model.parameters()]), run.store["end"])
    assert {content(i) for i in run.store["rows"].ids} == {content(i) for i in ROWS.ids}

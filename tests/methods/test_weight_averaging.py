"""Weight averaging: the final weights against the mean of the weights along a run."""

from typing import Any

import torch

import tables
import worlds
from expunge.core.modality import Weights
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.weight_averaging import Average
from expunge.workflows import build_plan

SETTINGS = {"lr": 1e-3, "epochs": 3, "batch_size": 4, "steps": 0}


def run_with_history(world: worlds.World, *update: str, **hyperparameters: Any) -> tuple[RunState, dict[int, Weights]]:
    """A run, and the weights after each of its steps."""
    weights_by_step: dict[int, Weights] = {}
    hooks = Hooks(save=lambda state: weights_by_step.update({state["done"]: state["weights"]}), every=0)
    run = loop.run(
        build_plan.plan("graddiff", {**SETTINGS, **hyperparameters}, update=update), world.model(), world.modality, world.sets, hooks=hooks
    )
    return run, weights_by_step


def test_final_weights_are_the_mean_of_snapshots_of_the_base_run(text: worlds.World) -> None:
    base, base_weights = run_with_history(text)
    run, averaged_weights = run_with_history(text, "weight_averaging", start=4, every=2)
    assert (base.cost.steps, len(base_weights)) == (9, 10)
    assert all(torch.equal(base_weights[9][n], t) for n, t in averaged_weights[9].items())  # only the final weights differ
    mean, final = weights_of(run.model), weights_of(base.model)
    for name, t in mean.items():
        assert torch.allclose(t, (base_weights[4][name] + base_weights[6][name] + base_weights[8][name]) / 3, atol=1e-6)
    assert any(not torch.allclose(t, final[n], atol=1e-5) for n, t in mean.items())


def test_single_snapshot_at_the_end_equals_the_base_run(text: worlds.World) -> None:
    base, run = run_with_history(text)[0], run_with_history(text, "weight_averaging", start=9)[0]
    assert worlds.same(worlds.tensors(base.model), worlds.tensors(run.model))


def test_run_without_snapshots_warns(text: worlds.World) -> None:
    base, run = run_with_history(text)[0], run_with_history(text, "weight_averaging")[0]
    assert worlds.same(worlds.tensors(base.model), worlds.tensors(run.model))
    assert run.warnings == ["no weights were averaged: there were 9 steps, and the first snapshot is after 100"]


def test_paper_settings_average_six_snapshots() -> None:
    """The snapshots are the steps 100, 105 ... 125."""
    sets, table = {"forget": tables.rows("forget", [0], [[0]])}, torch.zeros(1, 1, 2, dtype=torch.float64)
    (plan,) = build_plan.plan("weight_averaging")
    history = []
    model = tables.Table(table)
    train = Train(epochs=0, steps=125, batch_size=1, lr=0.01, optimizer="sgd", schedule="constant")
    hooks = Hooks(save=lambda state: history.append(state["weights"]["scores"]), every=0)
    loop.run((Plan(Ascent(), train=train, updates=plan.updates),), model, tables.TableModality(), sets, hooks=hooks)
    assert len(history) == 126
    assert torch.allclose(model.scores, torch.stack([history[s] for s in (100, 105, 110, 115, 120, 125)]).mean(0), atol=1e-12)


def test_running_statistics_are_averaged_and_counts_are_kept() -> None:
    world, weights_by_step = worlds.digits("resnet-nano"), {}
    hooks = Hooks(save=lambda state: weights_by_step.update({state["done"]: state["weights"]}), every=0)
    plan = Plan(Ascent() + NLL("retain"), train=Train(epochs=1, steps=2, batch_size=16, lr=1e-3), updates=(Average(start=1, every=1),))
    model = world.model()
    loop.run((plan,), model, world.modality, world.sets, hooks=hooks)
    for name, t in weights_of(model).items():
        mean = (weights_by_step[1][name] + weights_by_step[2][name]) / 2 if t.is_floating_point() else weights_by_step[2][name]
        assert torch.allclose(t, mean, atol=1e-6)


def test_mean_of_16_bit_weights_is_kept_in_float32(text: worlds.World) -> None:
    model = text.model().bfloat16()
    plan = Plan(Ascent(), train=Train(epochs=1, steps=1, batch_size=4, lr=1e-3), updates=(Average(start=1),))
    run = loop.run((plan,), model, text.modality, text.sets)
    assert {t.dtype for n, t in run.state["/update0"].items() if n.startswith("mean/")} == {torch.float32}
    assert next(model.parameters()).dtype == torch.bfloat16


def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    hyperparameters = {"lr": 1e-3, "epochs": 20, "steps": 0, "batch_size": 9, "start": 12, "every": 2}
    loop.run(build_plan.plan("weight_averaging", hyperparameters), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 2.0
    assert retain < 0.2 * forget

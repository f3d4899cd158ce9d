"""Weight averaging against the mean of the weights that a run went through."""

from typing import Any

import torch

import tables
import worlds
from expunge.core.modality import Weights
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.loop import Hooks
from expunge.engine.run_state import RunState
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.weight_averaging import Average
from expunge.workflows import build_plan

KNOBS = {"lr": 1e-3, "epochs": 3, "batch_size": 4, "steps": 0}


def trail(world: worlds.World, *update: str, **more: Any) -> tuple[RunState, dict[int, Weights]]:
    """A run, and the weights after each of its steps."""
    seen: dict[int, Weights] = {}
    hooks = Hooks(save=lambda state: seen.update({state["done"]: state["weights"]}), every=0)
    run = loop.run(build_plan.plan("graddiff", {**KNOBS, **more}, update=update), world.model(), world.modality, world.sets, hooks=hooks)
    return run, seen


def test_is_the_mean_of_what_the_base_run_went_through(text: worlds.World) -> None:
    base, seen = trail(text)
    run, same = trail(text, "weight_averaging", start=4, every=2)
    assert (base.cost.steps, len(seen)) == (9, 10)
    assert all(torch.equal(seen[9][n], t) for n, t in same[9].items())  # it ends otherwise, and that is all
    found, last = weights_of(run.model), weights_of(base.model)
    for name, t in found.items():
        assert torch.allclose(t, (seen[4][name] + seen[6][name] + seen[8][name]) / 3, atol=1e-6)
    assert any(not torch.allclose(t, last[n], atol=1e-5) for n, t in found.items())


def test_a_single_snapshot_at_the_end_is_the_base_run(text: worlds.World) -> None:
    base, run = trail(text)[0], trail(text, "weight_averaging", start=9)[0]
    assert worlds.same(worlds.tensors(base.model), worlds.tensors(run.model))


def test_too_short_a_run_says_so(text: worlds.World) -> None:
    base, run = trail(text)[0], trail(text, "weight_averaging")[0]
    assert worlds.same(worlds.tensors(base.model), worlds.tensors(run.model))
    assert run.warnings == ["no weights were averaged: there were 9 steps, and the first snapshot is after 100"]


def test_six_snapshots_with_the_settings_of_the_paper() -> None:
    """The steps 100, 105 ... 125."""
    sets, table = {"forget": tables.rows("forget", [0], [[0]])}, torch.zeros(1, 1, 2, dtype=torch.float64)
    (plan,) = build_plan.plan("weight_averaging")
    seen = []
    model = tables.Table(table)
    train = Train(epochs=0, steps=125, batch_size=1, lr=0.01, optimizer="sgd", schedule="constant")
    hooks = Hooks(save=lambda state: seen.append(state["weights"]["scores"]), every=0)
    loop.run((Plan(Ascent(), train=train, updates=plan.updates),), model, tables.Port(), sets, hooks=hooks)
    assert len(seen) == 126
    assert torch.allclose(model.scores, torch.stack([seen[s] for s in (100, 105, 110, 115, 120, 125)]).mean(0), atol=1e-12)


def test_running_statistics_are_averaged_and_counts_stay() -> None:
    world, seen = worlds.digits("resnet-nano"), {}
    hooks = Hooks(save=lambda state: seen.update({state["done"]: state["weights"]}), every=0)
    plan = Plan(Ascent() + NLL("retain"), train=Train(epochs=1, steps=2, batch_size=16, lr=1e-3), updates=(Average(start=1, every=1),))
    model = world.model()
    loop.run((plan,), model, world.modality, world.sets, hooks=hooks)
    for name, t in weights_of(model).items():
        mean = (seen[1][name] + seen[2][name]) / 2 if t.is_floating_point() else seen[2][name]
        assert torch.allclose(t, mean, atol=1e-6)


def test_weights_of_16_bits_have_a_mean_in_32(text: worlds.World) -> None:
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

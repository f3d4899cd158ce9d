"""NPO: values by hand, ascent as its limit, and the outcome."""

import math

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.engine.cached_reference import cache_reference
from expunge.engine.gradient import evaluate
from expunge.engine.run_state import RunState
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan


def new_run(world: worlds.World, sets: dict) -> RunState:
    """A run before its first step, with cached reference losses."""
    run = loop.new_state(world.model(), world.modality, worlds.accelerator())
    run.reference_loss = cache_reference(run, sets, frozenset({"forget"}))
    return run


def test_value_at_the_reference_is_two_log_two_over_beta(text: worlds.World) -> None:
    sets = text.some(6)
    value, _ = evaluate(new_run(text, sets), NPO(beta=0.1), {"forget": sets["forget"]})
    assert float(value) == pytest.approx(2 / 0.1 * math.log(2), abs=1e-4)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gradient_at_the_reference_equals_ascent_on_summed_losses(text: worlds.World, beta: float) -> None:
    sets = {"forget": text.some(1)["forget"]}
    run = new_run(text, sets)
    labels = text.modality.counts(sets["forget"])["labels"]
    _, npo = evaluate(run, NPO(beta=beta), sets)
    _, ascent = evaluate(run, labels * Ascent(), sets)
    assert worlds.far(npo, ascent) < 1e-3 * float(loop.global_norm(ascent))


def test_gradient_away_from_the_reference_matches_a_hand_value(text: worlds.World) -> None:
    sets = {"forget": text.some(1)["forget"]}
    run = new_run(text, sets)
    run.reference_loss = {k: v - 1.3 / len(v) for k, v in run.reference_loss.items()}  # the row has lost 1.3 nats since then
    labels = text.modality.counts(sets["forget"])["labels"]
    _, npo = evaluate(run, NPO(beta=0.1), sets)
    _, ascent = evaluate(run, labels * Ascent(), sets)
    largest = max(range(len(npo)), key=lambda i: float(ascent[i].abs().max()))
    position = ascent[largest].abs().argmax()
    assert float(npo[largest].flatten()[position] / ascent[largest].flatten()[position]) == pytest.approx(0.935091, abs=1e-3)


@pytest.mark.slow
def test_forgets_with_less_damage_than_ascent(text: worlds.World) -> None:
    losses = {}
    for name in ("npo", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
        losses[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert losses["npo"][0] > 2.0
    assert losses["npo"][1] < 0.25 * losses["ga"][1]


def test_uses_cached_losses_instead_of_a_second_model(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(build_plan.plan("npo", {"epochs": 2}), model, text.modality, text.sets)
    assert "reference" not in run.models
    assert run.forwards.count("now") == run.cost.steps
    assert torch.isfinite(torch.tensor(run.log[0]["loss"]))

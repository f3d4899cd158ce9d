"""Adaptive RMU: the vector's length is the outputs' own, with which it is RMU, and the outcome."""

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.workflows import build_plan

KNOBS = {"layer": 1, "lr": 1e-2, "batch_size": 9, "retain_weight": 10}


def norm(text: worlds.World) -> float:
    """Mean over rows of the mean norm of the block's output at the answer's tokens, a row at a time."""
    rows, model, found = text.sets["forget"], text.model(), []
    with torch.no_grad():
        for i in range(len(rows)):
            h = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].hidden("model.layers.1").values
            found.append(float(h[-len(rows["answer"][i]) :].square().sum(-1).sqrt().mean()))
    return sum(found) / len(found)


def test_length_follows_the_norm(text: worlds.World) -> None:
    for scale in (1.0, 5.0):
        run = loop.run(build_plan.plan("adaptive_rmu", {**KNOBS, "scale": scale, "steps": 1}), text.model(), text.modality, text.sets)
        assert float(run.state["/term0"]["target"].norm()) == pytest.approx(scale * norm(text), rel=1e-5)


def test_is_rmu_where_the_lengths_agree(text: worlds.World) -> None:
    ends, own = [], norm(text)
    for name, hyperparameters in (("rmu", {"coefficient": 2 * own}), ("adaptive_rmu", {"scale": 2.0})):
        model = text.model()
        loop.run(build_plan.plan(name, {**KNOBS, **hyperparameters, "steps": 3}), model, text.modality, text.sets)
        ends.append(worlds.tensors(model))
    assert worlds.far(*ends) < 1e-5


def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("adaptive_rmu", {**KNOBS, "scale": 2, "steps": 40}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 2.0
    assert retain < 0.5 * forget

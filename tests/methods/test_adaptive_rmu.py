"""Adaptive RMU: the length of the target vector, its equality with RMU at equal lengths, and the outcome."""

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.workflows import build_plan

HYPERPARAMETERS = {"layer": 1, "lr": 1e-2, "batch_size": 9, "retain_weight": 10}


def mean_norm(text: worlds.World) -> float:
    """Mean over rows of the mean norm of the block's output at the answer's tokens, computed one row at a time."""
    rows, model, norms = text.sets["forget"], text.model(), []
    with torch.no_grad():
        for i in range(len(rows)):
            hidden = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].hidden("model.layers.1").values
            norms.append(float(hidden[-len(rows["answer"][i]) :].square().sum(-1).sqrt().mean()))
    return sum(norms) / len(norms)


def test_target_length_follows_the_norm_of_the_outputs(text: worlds.World) -> None:
    for scale in (1.0, 5.0):
        run = loop.run(
            build_plan.plan("adaptive_rmu", {**HYPERPARAMETERS, "scale": scale, "steps": 1}), text.model(), text.modality, text.sets
        )
        assert float(run.state["/term0"]["target"].norm()) == pytest.approx(scale * mean_norm(text), rel=1e-5)


def test_equals_rmu_when_the_target_lengths_agree(text: worlds.World) -> None:
    ends, norm = [], mean_norm(text)
    for name, hyperparameters in (("rmu", {"coefficient": 2 * norm}), ("adaptive_rmu", {"scale": 2.0})):
        model = text.model()
        loop.run(build_plan.plan(name, {**HYPERPARAMETERS, **hyperparameters, "steps": 3}), model, text.modality, text.sets)
        ends.append(worlds.tensors(model))
    assert worlds.far(*ends) < 1e-5


@pytest.mark.slow
def test_forget_rows_lose_more_than_retain_rows(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("adaptive_rmu", {**HYPERPARAMETERS, "scale": 2, "steps": 40}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 2.0
    assert retain < 0.5 * forget

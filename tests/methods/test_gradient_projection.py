"""Gradient projection: vectors in numbers, its identities, and the effect of a step on the retain rows."""

from collections.abc import Sequence

import pytest
import torch

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.gradients import dot
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.gradient_projection import Project, apart
from expunge.workflows import build_plan
from quadratic import Bowls


def bowls_with(**gradients: Sequence[float]) -> Bowls:
    """Bowls whose roles have these gradients at the start."""
    lowest = {role: -torch.tensor(g, dtype=torch.float64) for role, g in gradients.items()}
    start = torch.zeros(2, dtype=torch.float64)
    return Bowls(start, {role: torch.eye(2, dtype=torch.float64) for role in gradients}, lowest)


def test_projection_matches_hand_values() -> None:
    conflict = bowls_with(forget=(2, -1), retain=(0, 4), other=(100, 100))
    assert conflict.under(Project(), roles=("forget",))[1].tolist() == [2, 0]
    assert conflict.under(Project(), roles=("retain",))[1].tolist() == [0, 4]
    assert conflict.under(Project(), roles=("forget", "retain"))[1].tolist() == [2, 4]
    assert conflict.under(Project())[1].tolist() == [102, 104]
    value = conflict.under(Project())[0]
    assert float(value) == pytest.approx((2**2 + 1 + 4**2 + 2 * 100**2) / 2)


def test_both_gradients_are_projected_as_in_pcgrad() -> None:
    conflict = bowls_with(forget=(2, -1), retain=(0, 4))  # the retain gradient minus (-4/5) (2, -1)
    assert conflict.under(Project(both=True), roles=("retain",))[1].tolist() == pytest.approx([1.6, 3.2])
    assert conflict.under(Project(both=True))[1].tolist() == pytest.approx([3.6, 3.2])


def test_agreeing_gradients_are_projected_only_with_always() -> None:
    agreement = bowls_with(forget=(2, 1), retain=(0, 4))
    assert agreement.under(Project())[1].tolist() == [2, 5]
    assert agreement.under(Project(both=True))[1].tolist() == [2, 5]
    assert agreement.under(Project(when="always"))[1].tolist() == [2, 4]
    zero_retain = bowls_with(forget=(2, 1), retain=(0, 0))
    assert zero_retain.under(Project(when="always"))[1].tolist() == [2, 1]


def test_projected_gradient_is_orthogonal() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(3, 4, generator=g).double(), torch.randn(7, generator=g).double()] for _ in range(2))
    assert abs(float(dot(a, b))) > 0.1
    remainder = apart(a, b, "always")
    assert float(dot(remainder, b)) == pytest.approx(0, abs=1e-12)
    assert torch.allclose(remainder[0], apart(remainder, b, "always")[0])
    assert float(dot(remainder, a)) == pytest.approx(float(dot(remainder, remainder)))  # the nearest of all orthogonal vectors


def test_projected_step_keeps_the_retain_loss_to_first_order(digits: worlds.World) -> None:
    rows, change = digits.sets["retain"].select(range(24)), {}
    sets = {"forget": digits.sets["forget"].select(range(24)), "retain": rows}
    for update in ((), (Project(when="always"),)):
        model = digits.model().double()
        before = digits.modality.forward(model, [rows])[0].target_logp.values.mean()
        train = Train(epochs=1, batch_size=24, lr=1e-8, optimizer="sgd", schedule="constant", pairing="aligned")
        loop.run((Plan(50 * Ascent() + 1e-6 * NLL("retain"), train=train, updates=update),), model, digits.modality, sets)
        change[len(update)] = abs(float((before - digits.modality.forward(model, [rows])[0].target_logp.values.mean()).detach()))
    assert change[1] < 0.05 * change[0]


@pytest.mark.slow
def test_projection_harms_retain_rows_less_than_the_plain_sum(text: worlds.World) -> None:
    harm = {}
    for when in ("", "conflict"):
        model = text.model()
        hyperparameters = {"lr": 1e-3, "epochs": 20, "batch_size": 9}
        loop.run(build_plan.plan("npo", hyperparameters, update=("gradient_projection",) if when else ()), model, text.modality, text.sets)
        assert worlds.nll(model, text.modality, text.sets["forget"]) > 2.5
        harm[when] = worlds.nll(model, text.modality, text.sets["retain"])
    assert harm["conflict"] < harm[""]
    assert build_plan.plan("gradient_projection")[0].action == build_plan.plan("npo")[0].action

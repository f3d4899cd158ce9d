"""EraseDiff: the weight of the forget gradient by hand, what it guarantees, and the outcome on tiny pictures."""

from __future__ import annotations

import pytest
import torch

import erasing
import worlds
from expunge.core.parts import Grads
from expunge.methods.updates.erasediff import TwoLevels

RETAIN, FORGET = [torch.tensor([3.0, 0.0]), torch.tensor([1.0])], [torch.tensor([-1.0, 2.0]), torch.tensor([0.0])]


def combined(update: TwoLevels, forget: list[torch.Tensor] = FORGET) -> list[torch.Tensor]:
    gradients = {"retain": (torch.tensor(1.0), RETAIN), "forget": (torch.tensor(2.0), forget)}
    grads = Grads(lambda *roles: gradients[roles[0]], lambda *_: [], RETAIN, frozenset(gradients))
    return update.wrap(grads, None)("forget", "retain")[1]  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    # <g_r, g_q> = -3, |g_q|^2 = 5, |g_r|^2 = 10
    assert float(TwoLevels(eta=0.1).weight(RETAIN, FORGET)) == pytest.approx(0.1 + 3 / 5)
    assert float(TwoLevels(eta=0.1, rule="cosine").weight(RETAIN, FORGET)) == pytest.approx(0.1 + 3 / 50**0.5)
    assert float(TwoLevels(eta=0.1, rule="fixed").weight(RETAIN, FORGET)) == pytest.approx(0.1)


def test_a_retain_gradient_that_forgets_fast_enough_is_left_alone() -> None:
    agreeing = [-g for g in FORGET]
    assert float(TwoLevels(eta=0.5).weight(RETAIN, agreeing)) == 0
    assert all(torch.equal(a, b) for a, b in zip(combined(TwoLevels(eta=0.5), agreeing), RETAIN, strict=True))


@pytest.mark.parametrize("eta", [0.0, 0.1, 2.0])
def test_the_forget_loss_falls_by_at_least_eta(eta: float) -> None:
    inner = sum(float((s * g).sum()) for s, g in zip(combined(TwoLevels(eta=eta)), FORGET, strict=True))
    assert inner >= eta * 5 - 1e-5


def test_no_forget_gradient_is_no_step_of_it() -> None:
    nothing = [torch.zeros(2), torch.zeros(1)]
    assert all(torch.equal(a, b) for a, b in zip(combined(TwoLevels(), nothing), RETAIN, strict=True))


def test_a_fixed_weight_of_one_is_the_sum_of_the_terms() -> None:
    few = {"steps": 2, "epochs": 1, "batch_size": 3, "lr": 1e-2, "optimizer": "sgd"}
    with_update, _ = erasing.unlearned("erasediff", {**few, "rule": "fixed", "eta": 1.0})
    plain, _ = erasing.unlearned("random_captions", {**few, "retain_weight": 1.0})
    assert worlds.far(worlds.tensors(with_update), worlds.tensors(plain)) < 1e-6


@pytest.mark.slow
def test_draws_another_color_and_keeps_the_others() -> None:
    options = {"concept": "red", "pseudo": "green", "epochs": 0, "steps": 150, "lr": 2e-3, "batch_size": 6}
    shares = erasing.shares(*erasing.unlearned("erasediff", options, taught=True), "green")
    assert min(shares.values()) >= 0.75

"""MMRecUn: the reversed comparison by hand, its limits, the stop rule, and the outcome on tastes."""

import math

import pytest
import torch
from torch import nn

import tables
import tastes
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.gradient import evaluate
from expunge.methods.objectives.mmrecun import OtherClass
from expunge.methods.terms import NLL
from expunge.modalities.ranking.building import own_model
from expunge.workflows import build_plan

PAIRS = [{"user": u, "item": i} for u, i in (("a", "w"), ("a", "x"), ("b", "x"))]


class Scores(nn.Module):
    """A table of scores, (users, items)."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.clone())

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.scores[users, items]


def asked(objective, scores, item: int, negative: int, loss: str = "bpr"):
    """Value and gradient of a term for user 0, one item and one negative."""
    model, modality = own_model(Scores(scores), ["a", "b"], ["w", "x", "y", "z"], PAIRS, loss)
    rows = modality.rows("forget", [{"user": "a", "item": "w"}])
    rows = rows.add(item=[item], negatives=[[negative]], answer=[[1] if loss == "bpr" else [1, 0]])
    value, (gradient,) = evaluate(loop.new_state(model, modality, worlds.accelerator()), objective, {"forget": rows})
    return float(value), gradient


def test_at_equal_scores_both_losses_are_log_2_and_pull_apart() -> None:
    for objective, sign in ((OtherClass(), 1), (NLL("forget"), -1)):
        value, gradient = asked(objective, torch.zeros(2, 4), 0, 3)
        assert value == pytest.approx(math.log(2))
        assert gradient[0].tolist() == pytest.approx([sign * 0.5, 0, 0, -sign * 0.5])


def test_gradient_is_the_sigmoid_of_the_gap_and_vanishes_once_the_order_is_turned() -> None:
    scores = torch.tensor([[1.5, 0.0, 0.0, -0.5], [0.0] * 4])
    assert float(asked(OtherClass(), scores, 0, 3)[1][0, 0]) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert float(asked(NLL("forget"), scores, 0, 3)[1][0, 0]) == pytest.approx(-1 / (1 + math.exp(2.0)))
    assert abs(float(asked(OtherClass(), 10 * -scores, 0, 3)[1][0, 0])) < 1e-8


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_is_the_loss_with_item_and_negative_swapped(loss: str) -> None:
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    reverse, swapped = asked(OtherClass(), scores, 1, 2, loss), asked(NLL("forget"), scores, 2, 1, loss)
    assert reverse[0] == pytest.approx(swapped[0])
    assert torch.allclose(reverse[1], swapped[1])


def test_more_than_two_classes_are_refused() -> None:
    with pytest.raises(UserError, match="this model has 6"):
        tables.ask(OtherClass(), tables.batch(), tables.scores())


def test_a_weight_beyond_one_is_refused() -> None:
    with pytest.raises(UserError, match="alpha is a weight from 0 to 1"):
        build_plan.plan("mmrecun", {"alpha": 1.5})


@pytest.mark.slow
def test_without_a_forget_term_it_is_continued_training() -> None:
    world, settings = tastes.world(), {"epochs": 2, "lr": 1e-2, "batch_size": 256, "optimizer": "adam", "schedule": "constant"}
    model, _ = world.unlearned("mmrecun", alpha=0, forget_recall=0, **settings)
    trained = world.model()
    loop.run((Plan(NLL("retain"), train=Train(anchor="retain", **settings)),), trained, world.modality, {"retain": world.sets["retain"]})
    assert worlds.same(worlds.tensors(model), worlds.tensors(trained))
    assert not worlds.same(worlds.tensors(model), worlds.tensors(world.model()))


def ended(run) -> str:
    return next(r["ended"] for r in run.log if "ended" in r)


def test_forgets_users_and_keeps_what_others_like() -> None:
    world = tastes.world()
    model, run = world.unlearned("mmrecun", lr=1e-2, batch_size=256, cut=10, weight_decay=1e-3)
    recalls = {name: world.recall(model, name) for name in ("forget", "test")}
    original, retrained = world.model(), world.model("retrained")
    assert world.recall(original, "forget") > world.recall(retrained, "forget") + 0.2
    assert recalls["forget"] <= world.recall(retrained, "forget") + 0.02
    assert recalls["test"] >= 0.95 * world.recall(original, "test")
    assert ended(run).startswith(f"forgotten: recall at 10 of forget rows {recalls['forget']:.3f}, of retain rows ")


def test_stops_before_the_first_step_where_nothing_is_left_to_forget() -> None:
    model, run = tastes.world().unlearned("mmrecun", forget_recall=1.0)
    assert ended(run).startswith("forgotten")
    assert worlds.same(worlds.tensors(model), worlds.tensors(tastes.world().model()))


def test_stops_once_the_retain_rows_are_lost() -> None:
    _, run = tastes.world().unlearned("mmrecun", alpha=1, lr=0.3, batch_size=2048, forget_recall=0, patience=2, epochs=20)
    assert ended(run).startswith("retain rows are recommended too rarely")
    assert run.epoch < 20

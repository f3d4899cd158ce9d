"""WAGLE: scores worked out by hand, limit cases, sizes of masks, weights that masks hold fixed, and the outcome."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import tables
import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.sam import SAM
from expunge.methods.updates.wagle import WAGLE, attribution, largest
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector

FAST = Train(epochs=2, batch_size=4, lr=1e-3, schedule="constant")


def masks(world: worlds.World, **hyperparameters: Any) -> Tensor:
    """The mask over all weights, as one vector."""
    plan = Plan(Ascent(), train=Train(epochs=0), updates=(WAGLE(**hyperparameters),))
    run = loop.run((plan,), world.model(), world.modality, world.sets)
    return torch.cat([m.flatten() for m in run.state["/update0"].values()])


def test_score_of_a_quadratic_retain_loss_uses_its_minimum() -> None:
    weight, lowest, forget = vector(0), vector(1), vector(2)
    assert torch.allclose(attribution(weight, forget, 0.3 * (weight - lowest), 0.3), (lowest * forget).abs())


def test_gamma_interpolates_between_two_rankings() -> None:
    w, f, r = (vector(i, 200) for i in range(3))

    def order(scores: Tensor) -> list[int]:
        return scores.argsort(stable=True).tolist()

    assert order(attribution(w, f, r, 1e12)) == order((w * f).abs())
    assert order(attribution(w, f, r, 1e-12)) == order((r * f).abs())
    assert order(attribution(w, f, r, 1.0)) not in (order((w * f).abs()), order((r * f).abs()))
    assert torch.equal(attribution(w, f, 0 * r, 0.0), (w * f).abs())  # at a retain optimum the Fisher information is zero, too


def test_largest_ranks_all_tensors_together_and_breaks_ties_in_order() -> None:
    g = torch.Generator().manual_seed(0)
    scores = [(torch.randn(n, generator=g).abs() * 8).round() / 8 for n in (50, 1, 300)]  # many ties
    scores = [scores[0].view(5, 10), scores[1], scores[2] * torch.rand(300, generator=g).round()]
    all_scores = torch.cat([s.flatten() for s in scores])
    for count in (0, 1, 17, 100, 180, 340, len(all_scores)):
        expected = torch.zeros(len(all_scores), dtype=torch.bool)
        expected[all_scores.argsort(descending=True, stable=True)[:count]] = True
        chosen = largest(scores, count)
        assert [m.shape for m in chosen] == [s.shape for s in scores]
        assert torch.equal(torch.cat([m.flatten() for m in chosen]), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_mask_matches_hand_values(gamma: float) -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    rows = {n: [tables.slope(-logp.mean(), table) for logp in tables.logps(table, sets[n])] for n in ("forget", "retain")}
    forget, retain = (torch.stack(rows[n]).mean(0) for n in ("forget", "retain"))
    fisher = float(torch.stack(rows["retain"]).square().mean())
    scores = (table.detach() * forget - retain * forget / (gamma or fisher)).abs()
    # rows of the two sets share no table entry, so the second term matters only with shared prompts
    shared = {"forget": sets["forget"], "retain": sets["forget"].rename("retain")}
    shared_scores = (table.detach() * forget - forget.square() / (gamma or float(torch.stack(rows["forget"]).square().mean()))).abs()
    for row_sets, expected in ((sets, scores), (shared, shared_scores)):
        plan = Plan(Ascent(), train=Train(epochs=0), updates=(WAGLE(fraction=0.03, gamma=gamma),))
        run = loop.run((plan,), tables.Table(table.detach()), tables.TableModality(), row_sets)
        (mask,) = run.state["/update0"].values()
        count = int(0.03 * expected.numel())
        assert set(mask.flatten().nonzero().flatten().tolist()) == set(expected.flatten().topk(count).indices.tolist())
    assert set(shared_scores.flatten().topk(8).indices.tolist()) != set((table.detach() * forget).abs().flatten().topk(8).indices.tolist())


def test_masks_have_the_requested_size_and_are_nested(text: worlds.World) -> None:
    weight_count = sum(p.numel() for p in text.model().parameters())  # the tied head is the embedding and counts once
    masks_by_fraction = {p: masks(text, fraction=p) for p in (0.0, 0.1, 0.5, 0.95, 1.0)}
    assert [int(m.sum()) for m in masks_by_fraction.values()] == [int(p * weight_count) for p in masks_by_fraction]
    ordered = list(masks_by_fraction.values())
    assert all(bool((a <= b).all()) for a, b in pairwise(ordered))


@pytest.mark.slow
def test_rankings_differ_and_random_masks_are_seeded(text: worlds.World) -> None:
    masks_by_score = {s: masks(text, fraction=0.3, score=s) for s in ("wagle", "snip", "gradient", "magnitude", "random")}
    overlap = {s: float((masks_by_score["wagle"] & m).sum() / m.sum()) for s, m in masks_by_score.items()}
    assert overlap["random"] == pytest.approx(0.3, abs=0.02)
    assert 0.3 < overlap["snip"] < 1.0
    assert torch.equal(masks_by_score["random"], masks(text, fraction=0.3, score="random"))


@pytest.mark.parametrize("hold", [True, False])
def test_masked_weights_stay_fixed_or_only_decay(text: worlds.World, hold: bool) -> None:
    model, before = text.model(), worlds.tensors(text.model())
    plan = Plan(Ascent() + NLL("retain"), train=Train(epochs=1, batch_size=4, lr=1e-3, weight_decay=0.5, schedule="constant"))
    run = loop.run((Plan(plan.action, train=plan.train, updates=(WAGLE(fraction=0.3, hold=hold),)),), model, text.modality, text.sets)
    shrunk = 1.0 if hold else (1 - 1e-3 * 0.5) ** run.cost.steps
    moved = 0
    for old, new, mask in zip(before, worlds.tensors(model), run.state["/update0"].values(), strict=True):
        assert torch.equal(old[~mask], new[~mask]) if hold else torch.allclose(shrunk * old[~mask], new[~mask], atol=1e-6)
        moved += int((old[mask] != new[mask]).sum())
    assert moved > 0.9 * 0.3 * sum(t.numel() for t in before)


def test_zero_fraction_moves_no_weight(text: worlds.World) -> None:
    model = text.model()
    hyperparameters = {"fraction": 0, "lr": 1e-2, "epochs": 1, "steps": 0}
    loop.run(build_plan.plan("wagle", hyperparameters), model, text.modality, text.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))


@pytest.mark.parametrize(
    ("name", "beta", "weight"),
    [("wagle", 0.1, 1.0), ("curvature", 0.035, 1.0), ("gradient_penalty", 0.04, 1.0), ("weight_averaging", 0.05, 2.0)],
)
@pytest.mark.parametrize("batch_mean", [None, True])
def test_base_loss_is_npo_of_single_rows_as_batches_of_one_are_accumulated(
    name: str, beta: float, weight: float, batch_mean: bool | None
) -> None:
    """By hand: the authors' loss of each batch of one, and the mean that accumulation takes; or, on request, of the batch's mean loss."""
    sets, table, old = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    now, before = ([-logp for logp in tables.logps(t, sets["forget"])] for t in (table, old))
    retain = [-logp for logp in tables.logps(table, sets["retain"])]
    if batch_mean:
        expected = -2 / beta * logsigmoid(beta * (torch.cat(now).mean() - torch.cat(before).mean())) + weight * torch.cat(retain).mean()
    else:
        ones = [
            -2 / beta * logsigmoid(beta * (loss.mean() - reference.mean())) + weight * kept.mean()
            for loss, reference, kept in zip(now, before, retain, strict=True)
        ]
        expected = torch.stack(ones).mean()
    plan = build_plan.plan(name, {"batch_mean": True} if batch_mean else {})[0]
    value, grad = tables.ask(plan.action, {n: sets[n] for n in ("forget", "retain")}, table.detach(), old)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_order_of_sam_and_wagle_matters() -> None:
    """SAM over the masked gradient perturbs only movable weights; a mask over the SAM gradient perturbs all weights."""
    bowls, mask = Bowls(vector(0), {"forget": spd(1)}), torch.tensor([True, False, True, False, True])
    state, rho, g = {"0": mask}, 0.5, bowls.gradient("forget")
    within = mask * bowls.gradient("forget", bowls.start + rho * mask * g / (mask * g).norm())
    everywhere = mask * bowls.gradient("forget", bowls.start + rho * g / g.norm())
    assert torch.allclose(bowls.under(WAGLE(), SAM(rho=rho), state=state)[1], within, atol=1e-6)
    assert torch.allclose(bowls.under(SAM(rho=rho), WAGLE(), state=state)[1], everywhere, atol=1e-6)
    assert not torch.allclose(within, everywhere, atol=1e-2)


@pytest.mark.slow
def test_wagle_forgets_in_fewer_steps_than_a_random_mask_of_equal_size(text: worlds.World) -> None:
    for seed in range(3):
        forget_loss = {}
        for score in ("wagle", "random"):
            model = text.model()
            hyperparameters = {"lr": 1e-3, "batch_size": 9, "epochs": 15, "schedule": "constant", "warmup": 0, "seed": seed}
            plans = build_plan.plan("graddiff", {**hyperparameters, "fraction": 0.1, "score": score}, update=("wagle",))
            loop.run(plans, model, text.modality, text.sets)
            forget_loss[score] = worlds.nll(model, text.modality, text.sets["forget"])
        assert forget_loss["wagle"] > forget_loss["random"] + 0.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.6

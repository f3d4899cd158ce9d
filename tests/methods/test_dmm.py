"""Datamodel matching: the loss by hand, the end of matching, the targets, and rows with wrong labels that it unlearns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tables
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import checkpoint, ensemble, loop
from expunge.engine.context import RunView
from expunge.engine.schedule import lr_at
from expunge.engine.weights import put, weights_of
from expunge.evaluation.metrics import klom
from expunge.methods.objectives import dmm
from expunge.methods.terms import NLL
from expunge.parallel import ensembles
from expunge.workflows import build_plan

PORT = toys.modality(3)
CENTERS = 2.0 * torch.eye(3, 8)
NOTHING = (Plan(NLL("retain"), train=Train(epochs=0, anchor="retain")),)
POOL = toys.fresh(epochs=80, batch_size=64)


def clusters(n: int, seed: int, name: str, shift: int = 0) -> Rows:
    """Three clusters of points; `shift` makes the labels wrong."""
    labels = torch.arange(n) % 3
    points = CENTERS[labels] + 0.7 * torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return toys.rows(points, ((labels + shift) % 3).tolist(), PORT, name)


SETS: Sets = {"forget": clusters(6, 1, "forget", shift=1), "retain": clusters(42, 0, "retain")}


def picked(selectors: tuple[Any, ...], model: nn.Module, sets: Sets = SETS) -> Rows:
    """The rows that a run matches, with their targets."""
    run = loop.new_state(model, PORT, worlds.accelerator())
    for i, selector in enumerate(selectors):
        view = RunView(run, sets).at(f"select{i}", selector)
        sets = {**selector.pick(sets, view)}
    return sets["match"]


@pytest.fixture(scope="module")
def original() -> nn.Module:
    model = toys.mlp(3, hidden=32, width=8)
    loop.run(POOL, model, PORT, {"retain": SETS["forget"].concat(SETS["retain"]).rename("retain")}, seed=5)
    return model


@torch.no_grad()
def logits_of(model: nn.Module, rows: Rows) -> Tensor:
    return PORT.forward(model.eval(), [rows])[0].logits.values


@pytest.mark.parametrize("by", ["mse", "ce"])
def test_value_and_gradient_equal_the_formula(by: str) -> None:
    table = tables.scores().requires_grad_()
    rows = tables.rows("match", [0, 2], [[1, 3], [5]])
    targets = [torch.randn(2, 6).double(), torch.randn(1, 6).double()]
    current, target = torch.stack([table[0, 0], table[0, 1], table[2, 0]]), torch.cat(targets)
    expected = (current - target).square().sum() / 18 if by == "mse" else -(target.softmax(-1) * current.log_softmax(-1)).sum() / 3
    value, grad = tables.ask(dmm.Match(by), {"match": rows.add(target=targets)}, table.detach())
    assert value == pytest.approx(float(expected.detach()))
    assert torch.allclose(grad, tables.slope(expected, table))


def test_matched_rows_follow_the_multipliers() -> None:
    rows = picked((dmm.MatchSample(),), toys.mlp(3, width=8))
    assert rows.ids[:6] == SETS["forget"].ids
    assert len(rows) == 6 + 18
    assert len(set(rows.ids[6:]) & set(SETS["retain"].ids)) == 18
    assert picked((dmm.MatchSample(),), toys.mlp(3, width=8)).ids == rows.ids
    repeated = picked((dmm.MatchSample(2.5, 100),), toys.mlp(3, width=8))
    assert repeated.ids[:15] == (*SETS["forget"].ids * 2, *SETS["forget"].ids[:3])
    assert sorted(repeated.ids[15:]) == sorted(SETS["retain"].ids)


def test_oracles_equal_to_the_model_leave_it_unchanged() -> None:
    model = toys.mlp(3, width=8, norm=True).double()
    selector = dmm.Oracles(models=3, inner=NOTHING)
    assert torch.allclose(
        torch.cat(list(picked((dmm.MatchSample(), selector), model)["target"])), logits_of(model, picked((dmm.MatchSample(),), model))
    )
    plain = toys.mlp(3, width=8).double()
    before = weights_of(plain)
    train = replace(dmm.MATCH, optimizer="sgd", lr=0.1)  # Adam would amplify rounding errors
    run = loop.run((Plan(dmm.Match(), train=train, selectors=(dmm.MatchSample(), selector)),), plain, PORT, SETS)
    assert run.log[0]["loss"] == pytest.approx(0, abs=1e-25)
    assert all(torch.allclose(before[n], w, atol=1e-12) for n, w in weights_of(plain).items())


def test_oracles_average_logits_or_probabilities() -> None:
    selector = dmm.Oracles(models=4, inner=toys.fresh(epochs=2))
    retrained = list(picked((dmm.MatchSample(), selector), toys.mlp(3, width=8))["target"])
    view = RunView(loop.new_state(toys.mlp(3, width=8), PORT, worlds.accelerator()), SETS).at("select1", selector)
    matched = picked((dmm.MatchSample(),), toys.mlp(3, width=8))
    (pool,) = ensemble.train_in(view, selector.inner, SETS["retain"], torch.ones(4, 42, dtype=torch.bool))
    logits = ensemble.logits(pool, PORT, matched)
    assert torch.allclose(torch.cat(retrained), logits.mean(0), atol=1e-5)
    log_probs = picked((dmm.MatchSample(), replace(selector, probabilities=True)), toys.mlp(3, width=8))["target"]
    assert torch.allclose(torch.cat(list(log_probs)).softmax(-1), logits.softmax(-1).mean(0), atol=1e-5)
    assert build_plan.plan("dmm", {"target": "oracles", "loss": "ce"})[0].selectors[1] == dmm.Oracles(probabilities=True)


def test_matching_reaches_the_retrained_weights_of_a_linear_model_before_descent_on_the_loss_does() -> None:
    """One direction of the inputs is short, so the loss is flat along it. Matching on well-spread points is not affected."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 0.03])
    true = torch.randn(2, 3, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False)).double()
    start = weights_of(model)
    points = torch.randn(20, 2, generator=g, dtype=torch.float64)
    train = Train(epochs=120, batch_size=64, lr=1.0, optimizer="sgd", schedule="constant", anchor="match")
    errors = []
    for inputs in (points, x):
        rows = toys.rows(torch.zeros(len(inputs), 2), [0] * len(inputs), PORT, "match")
        rows = rows.add(pixels=[p.view(1, 1, 2) for p in inputs], target=[(p @ true)[None] for p in inputs])
        put(model, start)
        loop.run((Plan(dmm.Match(), train=train),), model, PORT, {"match": rows})
        errors.append(float((model[1].weight.detach().T - true).abs().max()))
    assert errors[0] < 1e-9
    assert errors[1] > 0.05


@pytest.mark.slow
def test_targets_predict_the_outputs_of_a_retrained_model(original: nn.Module) -> None:
    """Rows with wrong labels: the target drops the wrong label and changes in the same way as models that were really retrained."""
    rows = picked((dmm.MatchSample(), dmm.Datamodel(models=128, ridge=1.0, inner=POOL)), original)
    change = torch.cat(list(rows["target"])) - logits_of(original, rows)
    memberships = torch.ones(2, 8, 48, dtype=torch.bool)
    memberships[1, :, :6] = False
    everything = SETS["forget"].concat(SETS["retain"]).rename("retain")
    trained, retrained = (
        ensemble.logits(ensemble.train(POOL, original, PORT, everything, m, range(8)), PORT, rows).mean(0) for m in memberships
    )
    true, labels = retrained - trained, torch.tensor([y for (y,) in rows["answer"]])
    of_forget = torch.stack([change[:6].flatten(), true[:6].flatten()])
    assert torch.corrcoef(of_forget)[0, 1] > 0.7
    assert (change[range(6), labels[:6]] < -1).all()
    assert change[6:].abs().mean() < 0.5 * change[:6].abs().mean()


@pytest.mark.slow
def test_unlearns_wrong_labels(original: nn.Module) -> None:
    plan = build_plan.plan(
        "dmm", {"models": 96, "ridge": 1, "retain_multiplier": 7, "match.epochs": 150, "match.lr": 1e-2, "multiplier": 1.3}
    )
    selector = plan[0].selectors[1]
    assert isinstance(selector, dmm.Datamodel)
    plan = (replace(plan[0], selectors=(plan[0].selectors[0], replace(selector, inner=POOL))),)
    model = toys.mlp(3, hidden=32, width=8)
    put(model, weights_of(original))
    loop.run(plan, model, PORT, SETS)
    wrong, correct = ([(k + shift) % 3 for k in range(6)] for shift in (1, 0))
    assert logits_of(original, SETS["forget"]).argmax(-1).tolist() == wrong
    hits = logits_of(model, SETS["forget"]).argmax(-1) == torch.tensor(correct)
    assert hits.sum() >= 5
    retain_labels = torch.tensor([y for (y,) in SETS["retain"]["answer"]])
    assert (logits_of(model, SETS["retain"]).argmax(-1) == retain_labels).float().mean() > 0.95
    retrained = ensemble.train(POOL, model, PORT, SETS["retain"], torch.ones(20, 42, dtype=torch.bool), range(20))
    unlearned, untouched, expected = (
        ensembles.margins(p, PORT, SETS["forget"]).numpy() for p in (ensemble.alone(model), ensemble.alone(original), retrained)
    )
    assert abs(unlearned - expected.mean(0)).mean() < 0.5 * abs(untouched - expected.mean(0)).mean()
    assert np.mean(klom.klom(unlearned, expected)) <= np.mean(klom.klom(untouched, expected))


def test_stored_effects_are_subtracted(tmp_path: Path) -> None:
    model, rows = toys.mlp(3, width=8), SETS["forget"].concat(SETS["retain"]).rename("retain")
    pool = ensemble.train(toys.fresh(epochs=3), model, PORT, rows, ensemble.subsets(48, 12), range(12))
    ensembles.attribute(pool, PORT, rows, rows, tmp_path / "known", ridge=2.0)
    matched = picked((dmm.MatchSample(), dmm.Datamodel(attributions=str(tmp_path / "known"), multiplier=0.5)), model)
    effects = ensembles.effects(pool.trained_on, ensemble.logits(pool, PORT, rows), 2.0)
    places = [rows.ids.index(i) for i in matched.ids]
    expected = logits_of(model, matched) - 0.5 * effects[:6, places].sum(0)
    assert torch.allclose(torch.cat(list(matched["target"])), expected, atol=1e-2)  # kept in half precision
    assert not torch.allclose(logits_of(model, matched), expected, atol=1e-2)


def test_stored_effects_without_the_rows_raise_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "known"
    selectors = (dmm.MatchSample(), dmm.Datamodel(attributions=str(folder)))
    with pytest.raises(UserError, match="no attributions in"):
        picked(selectors, toys.mlp(3, width=8))
    attributions = {"rows": list(SETS["forget"].ids), "asked": list(SETS["forget"].ids), "effects": torch.zeros(6, 6, 3)}
    checkpoint.save(attributions, folder)
    with pytest.raises(UserError, match="no effects on 18 of 24 rows of 'match'"):
        picked(selectors, toys.mlp(3, width=8))
    checkpoint.save({**attributions, "rows": attributions["rows"][:4]}, folder)
    with pytest.raises(UserError, match="no effects of 2 of 6 rows of 'forget'"):
        picked(selectors, toys.mlp(3, width=8))


def test_the_learning_rate_falls_by_a_twentieth_per_epoch() -> None:
    assert [lr_at(dmm.MATCH, done, 2) / 5e-4 for done in range(5)] == pytest.approx([1, 1, 0.95, 0.95, 0.95**2])


def test_defaults_are_the_settings_of_the_paper() -> None:
    (plan,) = build_plan.plan("dmm")
    assert (plan.train.epochs, plan.train.lr, plan.train.batch_size, plan.train.lr_decay) == (5, 5e-4, 512, 0.95)
    sample, selector = plan.selectors
    assert (sample.forget_multiplier, sample.retain_multiplier, selector.multiplier, selector.share) == (1, 3, 1, 0.5)
    assert build_plan.plan("dmm", {"target": "oracles"})[0].selectors[1].models == 10
    (plan,) = build_plan.plan("dmm", {"pool.lr": 0.1, "match.lr": 0.2})
    assert (plan.train.lr, plan.selectors[1].inner[1].train.lr) == (0.2, 0.1)

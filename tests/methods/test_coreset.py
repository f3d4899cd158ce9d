"""MU-Coreset: scores by hand, which rows are kept and how often, limit cases, and that a few rows carry a topic but not a person."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squares
import tables
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.objectives.npo import NPO
from expunge.methods.selectors.coreset import Coreset, keywords, moderate
from expunge.workflows import build_plan

SETTINGS = {"lr": 1e-3, "epochs": 2, "batch_size": 4}


def part_and_view(model: nn.Module, modality: Any, rows: Rows, **hyperparameters: Any) -> tuple[Coreset, RunView]:
    part = Coreset(**hyperparameters)
    return part, RunView(loop.new_state(model, modality, worlds.accelerator()), {"forget": rows}).at("select0", part)


def scores(model: nn.Module, modality: Any, rows: Rows, **hyperparameters: Any) -> Tensor:
    part, view = part_and_view(model, modality, rows, **hyperparameters)
    return part.scores(view).double()


def kept(rows: Rows, model: nn.Module | None = None, modality: Any = None, **hyperparameters: Any) -> Rows:
    part, view = part_and_view(model or nn.Linear(1, 1), modality or squares.SquaresModality(), rows, **hyperparameters)
    return part.pick(view.sets, view)["forget"]


def numbered(n: int) -> Rows:
    return squares.rows("forget", squares.random(n, 2), squares.random(n, seed=1))


def test_grand_scores_of_a_linear_classifier_match_hand_values() -> None:
    """The gradient norm of weights and biases together is |p - y| |(x, 1)|."""
    modality, points, labels = toys.modality(3), torch.tensor([[0.2, 0.9], [1.5, 0.3], [0.0, 0.0]]), [0, 2, 1]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    p = model[1](points).detach().softmax(-1)
    expected = (p - torch.eye(3)[labels]).norm(dim=1) * torch.cat([points, torch.ones(3, 1)], 1).norm(dim=1)
    computed = scores(model, modality, toys.rows(points, labels, modality, "forget"), score="grand")
    assert torch.allclose(computed, expected.double(), atol=1e-6)


def test_grand_scores_along_a_run_use_npo_weights() -> None:
    """The score is the mean of 2 sigmoid(beta (log p - log p_ref)) |r| |x| before and after a step, r the residuals."""
    theta, rows, lr = squares.random(2, seed=2), numbered(5), 0.3
    model = squares.Linear(theta)
    trained = copy.deepcopy(model)
    loop.run((Plan(NPO(), train=Train(epochs=1, lr=lr, schedule="constant")),), trained, squares.SquaresModality(), {"forget": rows})
    x, y = torch.stack(list(rows["x"]))[:, 0], torch.stack(list(rows["y"]))[:, 0]
    residuals_before, residuals_after = (x @ t - y for t in (theta, trained.theta.detach()))
    weight = 2 * (0.1 * (residuals_before.square() - residuals_after.square()) / 2).sigmoid()
    expected = (residuals_before.abs() + weight * residuals_after.abs()) / 2 * x.norm(dim=1)
    assert torch.allclose(scores(model, squares.SquaresModality(), rows, score="grand", along=1, along_lr=lr), expected, atol=1e-5)
    assert torch.equal(model.theta.detach(), theta.double())


def test_min_k_scores_match_hand_values() -> None:
    table, rows = tables.scores(), tables.batch()["forget"]
    logps = tables.logps(table, rows)
    settings = {"k": 0.4, "score": "min_k"}  # keeps one, one and two of three, one and five labels
    expected = [float(logp.sort().values[:n].mean()) for logp, n in zip(logps, (1, 1, 2), strict=True)]
    assert scores(tables.Table(table), tables.TableModality(), rows, **settings).tolist() == pytest.approx(expected)
    assert scores(tables.Table(table), tables.TableModality(), rows, **{**settings, "k": 1.0}).tolist() == pytest.approx(
        [float(v.mean()) for v in logps]
    )
    best = expected.index(max(expected))
    assert set(kept(rows, tables.Table(table), tables.TableModality(), **settings).ids) == {rows.ids[best]}


def test_moderate_prefers_the_median_distance() -> None:
    """The distances to the mean 6 are 6, 5, 4, 3 and 18, with median 5."""
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [24.0]])
    assert moderate(x, 1).argsort(descending=True).tolist() == [1, 0, 2, 3, 4]


def test_each_cluster_keeps_its_share() -> None:
    x = torch.cat([squares.random(12, 3), 100 + squares.random(6, 3)])
    for size in (3, 6, 9):
        best = moderate(x, 2).argsort(descending=True)[:size]
        assert int((best >= 12).sum()) == size // 3
    assert len(moderate(torch.ones(5, 2), 4)) == 5, "identical rows form one cluster, without a warning"


def test_moderate_uses_the_input_of_the_head() -> None:
    modality, points = toys.modality(2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [24.0, 0.0]]) / 24
    computed = scores(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), modality, toys.rows(points, [0] * 5, modality), score="moderate", clusters=1
    )
    assert torch.equal(computed, moderate(points[:, :1], 1))


def test_random_coresets_are_nested_and_independent_of_the_seed() -> None:
    rows, runs = numbered(100), []
    for seed in (0, 1):
        sets = [set(kept(rows, fraction=p).ids) for p in (0.001, 0.01, 0.05, 0.29, 1.0)]
        assert [len(s) for s in sets] == [1, 1, 5, 29, 100]
        assert all(a <= b for a, b in pairwise(sets))
        part, view = part_and_view(nn.Linear(1, 1), squares.SquaresModality(), rows)
        view._run.seed = view._run.stage = seed
        runs.append(part.pick(view.sets, view)["forget"].ids)
    assert runs[0] == runs[1]
    assert set(kept(rows, draw=1).ids) != set(runs[0])


def test_rows_repeat_until_steps_are_as_many_as_with_all_rows(text: worlds.World) -> None:
    part, view = part_and_view(text.model(), text.modality, text.sets["forget"], fraction=0.34)
    ids = part.pick(view.sets, view)["forget"].ids
    assert len(ids) == len(text.sets["forget"]) == 9
    assert ids[:3] == ids[3:6] == ids[6:]
    assert [i for i in text.sets["forget"].ids if i in ids] == list(ids[:3])
    steps = []
    for coreset_settings in ({}, {"fraction": 0.34}, {"fraction": 0.34, "repeat": False}):
        plans = build_plan.plan("npo", {**SETTINGS, **coreset_settings}, select=("coreset",) if coreset_settings else ())
        steps.append(loop.run(plans, text.model(), text.modality, text.sets).cost.steps)
    assert steps == [6, 6, 2]


def trained_models(world: worlds.World, sets: Sets, *hyperparameters: dict[str, Any], base: str = "npo", **train: Any) -> list[nn.Module]:
    """Models after a method, first with all rows, then with each coreset."""
    models = []
    for coreset_settings in ({}, *hyperparameters):
        models.append(world.model())
        loop.run(
            build_plan.plan(base, {**SETTINGS, **train, **coreset_settings}, select=("coreset",) if coreset_settings else ()),
            models[-1],
            world.modality,
            sets,
        )
    return models


def test_full_fraction_equals_the_base_run(text: worlds.World) -> None:
    base, all_rows, half = map(worlds.tensors, trained_models(text, text.sets, {"fraction": 1.0}, {"fraction": 0.5}))
    assert worlds.same(base, all_rows)
    assert not worlds.same(base, half)


def test_one_of_identical_rows_is_enough(text: worlds.World) -> None:
    sets = {**text.sets, "forget": text.sets["forget"].select([0] * 8)}
    base, *coresets = map(worlds.tensors, trained_models(text, sets, *({"fraction": p} for p in (0.1, 0.5))))
    assert all(worlds.same(base, r) for r in coresets)


@pytest.mark.parametrize("score", ["random", "grand", "moderate", "min_k"])
@pytest.mark.parametrize("base", ["ga", "npo", "flat"])
def test_coreset_works_before_any_method(text: worlds.World, base: str, score: str) -> None:
    plans = build_plan.plan(base, {**SETTINGS, "epochs": 1, "fraction": 0.34, "score": score}, select=("coreset",))
    run = loop.run(plans, text.model(), text.modality, {n: text.sets[n] for n in build_plan.plan(base)[0].sets_read()})
    assert len(set(run.sets["forget"].ids)) == 3
    assert run.cost.steps == 3


@pytest.mark.parametrize(("edit", "hyperparameters"), [("ssd", {"alpha": 1.0}), ("iau", {}), ("task_vector", {"lr": 1e-3, "epochs": 1})])
def test_edit_uses_only_the_picked_rows(text: worlds.World, edit: str, hyperparameters: dict[str, Any]) -> None:
    """An edit with a coreset equals the edit with a request of only these rows."""
    request = {n: text.sets[n] for n in build_plan.plan(edit)[0].sets_read()}
    coreset = kept(request["forget"], fraction=0.34, repeat=False)
    picked, requested, whole = (text.model() for _ in range(3))
    loop.run(
        build_plan.plan(edit, {**hyperparameters, "fraction": 0.34, "repeat": False}, select=("coreset",)), picked, text.modality, request
    )
    loop.run(build_plan.plan(edit, hyperparameters), requested, text.modality, {**request, "forget": coreset})
    loop.run(build_plan.plan(edit, hyperparameters), whole, text.modality, request)
    assert worlds.same(worlds.tensors(picked), worlds.tensors(requested))
    assert not worlds.same(worlds.tensors(picked), worlds.tensors(whole))


def test_selectors_and_updates_without_use_for_an_edit_are_refused(text: worlds.World) -> None:
    for names, message in (
        ({"select": ("idk",)}, "'ssd' has no use for --select idk: it trains no model"),
        ({"update": ("sam",)}, "'ssd' has no use for --update sam: it trains no model"),
    ):
        with pytest.raises(UserError, match=message):
            build_plan.plan("ssd", **names)
    with pytest.raises(UserError, match="'random_weights' has no use for --select coreset: it reads none of the rows that are picked"):
        build_plan.plan("random_weights", select=("coreset",))
    with pytest.raises(UserError, match="the rows to forget were given weights, and an edit or a guard takes all alike"):
        loop.run(build_plan.plan("ssd", select=("guard_attribution",)), text.model(), text.modality, text.sets)


@torch.no_grad()
def probability(model: nn.Module, modality: Any, rows: Rows) -> float:
    """Mean over rows of the geometric mean probability of the labels."""
    return float(modality.forward(model, [rows])[0].target_logp.mean().exp().mean())


@pytest.mark.slow
def test_few_rows_carry_a_topic_but_not_a_person(text: worlds.World) -> None:
    """Two of 12 rows about pets have most of the effect of all rows on the other ten; two of nine about one person have less."""
    everybody, retained = text.sets["retain"].concat(text.sets["forget"]), len(text.sets["retain"])
    requests = {"topic": [i % 9 == 5 for i in range(len(everybody))], "person": [i >= retained for i in range(len(everybody))]}
    shares = {}
    for name, forgotten in requests.items():
        sets = {n: everybody.select(i for i, g in enumerate(forgotten) if g == (n == "forget")).rename(n) for n in ("forget", "retain")}
        fraction = 2.5 / len(sets["forget"])
        coreset_ids = kept(sets["forget"], fraction=fraction).ids
        left_out = sets["forget"].select(i for i, row in enumerate(sets["forget"].ids) if row not in coreset_ids)
        models = [text.model(), *trained_models(text, sets, {"fraction": fraction}, epochs=15)]
        before, after_all, after_coreset = (probability(m, text.modality, left_out) for m in models)
        shares[name] = (before - after_coreset) / (before - after_all)
    assert shares["topic"] > 0.75, shares
    assert shares["person"] < 0.6, shares


def test_keywords_match_hand_values() -> None:
    """The word "Ricin" is twice in the forget text and in no retain text; "the" is in both retain texts, so its weight is zero."""
    records = keywords(["Ricin, the toxin: Ricin is in the beans."], ["The beans are here.", "It is the best."], top=3)
    assert records == [{"text": "Ricin toxin in", "rest": ", the : is the beans."}]
    assert keywords(["the"], ["the"], top=3) == [{"text": "", "rest": "the"}]

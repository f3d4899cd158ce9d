"""MU-Coreset: each score by hand, which rows are kept and how often, its limits, and that few rows carry a topic and no other request."""

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

KNOBS = {"lr": 1e-3, "epochs": 2, "batch_size": 4}


def seen(model: nn.Module, modality: Any, rows: Rows, **hyperparameters: Any) -> tuple[Coreset, RunView]:
    part = Coreset(**hyperparameters)
    return part, RunView(loop.new_state(model, modality, worlds.accelerator()), {"forget": rows}).at("select0", part)


def scores(model: nn.Module, modality: Any, rows: Rows, **hyperparameters: Any) -> Tensor:
    part, view = seen(model, modality, rows, **hyperparameters)
    return part.scores(view).double()


def kept(rows: Rows, model: nn.Module | None = None, modality: Any = None, **hyperparameters: Any) -> Rows:
    part, view = seen(model or nn.Linear(1, 1), modality or squares.Port(), rows, **hyperparameters)
    return part.pick(view.sets, view)["forget"]


def numbered(n: int) -> Rows:
    return squares.rows("forget", squares.random(n, 2), squares.random(n, seed=1))


def test_gradients_of_a_linear_classifier_by_hand() -> None:
    """|p - y| |(x, 1)|, of weights and biases together."""
    modality, points, labels = toys.modality(3), torch.tensor([[0.2, 0.9], [1.5, 0.3], [0.0, 0.0]]), [0, 2, 1]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    p = model[1](points).detach().softmax(-1)
    wanted = (p - torch.eye(3)[labels]).norm(dim=1) * torch.cat([points, torch.ones(3, 1)], 1).norm(dim=1)
    found = scores(model, modality, toys.rows(points, labels, modality, "forget"), score="grand")
    assert torch.allclose(found, wanted.double(), atol=1e-6)


def test_gradients_along_a_run_are_weighed_as_npo_weighs_them() -> None:
    """2 sigmoid(beta (log p - log p_ref)) |r| |x|, r the residuals, the mean of those before a step and after it."""
    theta, rows, lr = squares.random(2, seed=2), numbered(5), 0.3
    model = squares.Linear(theta)
    after = copy.deepcopy(model)
    loop.run((Plan(NPO(), train=Train(epochs=1, lr=lr, schedule="constant")),), after, squares.Port(), {"forget": rows})
    x, y = torch.stack(list(rows["x"]))[:, 0], torch.stack(list(rows["y"]))[:, 0]
    first, then = (x @ t - y for t in (theta, after.theta.detach()))
    weight = 2 * (0.1 * (first.square() - then.square()) / 2).sigmoid()
    wanted = (first.abs() + weight * then.abs()) / 2 * x.norm(dim=1)
    assert torch.allclose(scores(model, squares.Port(), rows, score="grand", along=1, along_lr=lr), wanted, atol=1e-5)
    assert torch.equal(model.theta.detach(), theta.double())


def test_least_likely_labels_by_hand() -> None:
    table, rows = tables.scores(), tables.batch()["forget"]
    logps = tables.logps(table, rows)
    part = {"k": 0.4, "score": "min_k"}  # of three, one and five labels one, one and two
    wanted = [float(logp.sort().values[:n].mean()) for logp, n in zip(logps, (1, 1, 2), strict=True)]
    assert scores(tables.Table(table), tables.Port(), rows, **part).tolist() == pytest.approx(wanted)
    assert scores(tables.Table(table), tables.Port(), rows, **{**part, "k": 1.0}).tolist() == pytest.approx(
        [float(v.mean()) for v in logps]
    )
    best = wanted.index(max(wanted))
    assert set(kept(rows, tables.Table(table), tables.Port(), **part).ids) == {rows.ids[best]}


def test_the_median_distance_by_hand() -> None:
    """Around the mean 6 distances are 6, 5, 4, 3, 18: the median is 5."""
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [24.0]])
    assert moderate(x, 1).argsort(descending=True).tolist() == [1, 0, 2, 3, 4]


def test_every_kind_keeps_its_share() -> None:
    x = torch.cat([squares.random(12, 3), 100 + squares.random(6, 3)])
    for size in (3, 6, 9):
        best = moderate(x, 2).argsort(descending=True)[:size]
        assert int((best >= 12).sum()) == size // 3
    assert len(moderate(torch.ones(5, 2), 4)) == 5, "one kind, and nothing to warn of"


def test_reads_what_the_head_reads() -> None:
    modality, points = toys.modality(2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [24.0, 0.0]])
    found = scores(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), modality, toys.rows(points, [0] * 5, modality), score="moderate", clusters=1
    )
    assert torch.equal(found, moderate(points[:, :1], 1))


def test_smaller_coresets_lie_in_larger_ones_and_seeds_have_the_same() -> None:
    rows, runs = numbered(100), []
    for seed in (0, 1):
        sets = [set(kept(rows, fraction=p).ids) for p in (0.001, 0.01, 0.05, 0.29, 1.0)]
        assert [len(s) for s in sets] == [1, 1, 5, 29, 100]
        assert all(a <= b for a, b in pairwise(sets))
        part, view = seen(nn.Linear(1, 1), squares.Port(), rows)
        view._run.seed = view._run.stage = seed
        runs.append(part.pick(view.sets, view)["forget"].ids)
    assert runs[0] == runs[1]
    assert set(kept(rows, draw=1).ids) != set(runs[0])


def test_rows_repeat_so_that_steps_are_as_many(text: worlds.World) -> None:
    part, view = seen(text.model(), text.modality, text.sets["forget"], fraction=0.34)
    ids = part.pick(view.sets, view)["forget"].ids
    assert len(ids) == len(text.sets["forget"]) == 9
    assert ids[:3] == ids[3:6] == ids[6:]
    assert [i for i in text.sets["forget"].ids if i in ids] == list(ids[:3])
    steps = []
    for more in ({}, {"fraction": 0.34}, {"fraction": 0.34, "repeat": False}):
        plans = build_plan.plan("npo", {**KNOBS, **more}, select=("coreset",) if more else ())
        steps.append(loop.run(plans, text.model(), text.modality, text.sets).cost.steps)
    assert steps == [6, 6, 2]


def ends(world: worlds.World, sets: Sets, *hyperparameters: dict[str, Any], base: str = "npo", **train: Any) -> list[nn.Module]:
    """Models after a method, first with all rows, then with each coreset."""
    models = []
    for more in ({}, *hyperparameters):
        models.append(world.model())
        loop.run(build_plan.plan(base, {**KNOBS, **train, **more}, select=("coreset",) if more else ()), models[-1], world.modality, sets)
    return models


def test_all_rows_are_the_base_run(text: worlds.World) -> None:
    whole, same, less = map(worlds.tensors, ends(text, text.sets, {"fraction": 1.0}, {"fraction": 0.5}))
    assert worlds.same(whole, same)
    assert not worlds.same(whole, less)


def test_of_copies_one_is_enough(text: worlds.World) -> None:
    sets = {**text.sets, "forget": text.sets["forget"].select([0] * 8)}
    whole, *rest = map(worlds.tensors, ends(text, sets, *({"fraction": p} for p in (0.1, 0.5))))
    assert all(worlds.same(whole, r) for r in rest)


@pytest.mark.parametrize("score", ["random", "grand", "moderate", "min_k"])
@pytest.mark.parametrize("base", ["ga", "npo", "flat"])
def test_stands_before_methods(text: worlds.World, base: str, score: str) -> None:
    plans = build_plan.plan(base, {**KNOBS, "epochs": 1, "fraction": 0.34, "score": score}, select=("coreset",))
    run = loop.run(plans, text.model(), text.modality, {n: text.sets[n] for n in build_plan.plan(base)[0].sets_read()})
    assert len(set(run.sets["forget"].ids)) == 3
    assert run.cost.steps == 3


@pytest.mark.parametrize(("edit", "hyperparameters"), [("ssd", {"alpha": 1.0}), ("iau", {}), ("task_vector", {"lr": 1e-3, "epochs": 1})])
def test_an_edit_takes_the_rows_that_were_picked(text: worlds.World, edit: str, hyperparameters: dict[str, Any]) -> None:
    """What it does with a coreset is what it does where the request brings that and no more."""
    asked = {n: text.sets[n] for n in build_plan.plan(edit)[0].sets_read()}
    few = kept(asked["forget"], fraction=0.34, repeat=False)
    picked, given, whole = (text.model() for _ in range(3))
    loop.run(
        build_plan.plan(edit, {**hyperparameters, "fraction": 0.34, "repeat": False}, select=("coreset",)), picked, text.modality, asked
    )
    loop.run(build_plan.plan(edit, hyperparameters), given, text.modality, {**asked, "forget": few})
    loop.run(build_plan.plan(edit, hyperparameters), whole, text.modality, asked)
    assert worlds.same(worlds.tensors(picked), worlds.tensors(given))
    assert not worlds.same(worlds.tensors(picked), worlds.tensors(whole))


def test_what_an_edit_has_no_use_for_is_refused(text: worlds.World) -> None:
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
    """Mean over rows of the probability of their mean label."""
    return float(modality.forward(model, [rows])[0].target_logp.mean().exp().mean())


def test_a_few_rows_carry_a_topic_rather_than_a_person(text: worlds.World) -> None:
    """Two of 12 rows about pets take from the other ten most of what all of them take; two of the nine about one person take less."""
    everybody, retained = text.sets["retain"].concat(text.sets["forget"]), len(text.sets["retain"])
    requests = {"topic": [i % 9 == 5 for i in range(len(everybody))], "person": [i >= retained for i in range(len(everybody))]}
    shares = {}
    for name, gone in requests.items():
        sets = {n: everybody.select(i for i, g in enumerate(gone) if g == (n == "forget")).rename(n) for n in ("forget", "retain")}
        fraction = 2.5 / len(sets["forget"])
        few = kept(sets["forget"], fraction=fraction).ids
        out = sets["forget"].select(i for i, row in enumerate(sets["forget"].ids) if row not in few)
        models = [text.model(), *ends(text, sets, {"fraction": fraction}, epochs=15)]
        before, whole, after = (probability(m, text.modality, out) for m in models)
        shares[name] = (before - after) / (before - whole)
    assert shares["topic"] > 0.75, shares
    assert shares["person"] < 0.6, shares


def test_keywords_by_hand() -> None:
    """Ricin is twice in its text and in none to retain; "the" is in both of those, and so counts for nothing."""
    found = keywords(["Ricin, the toxin: Ricin is in the beans."], ["The beans are here.", "It is the best."], top=3)
    assert found == [{"text": "Ricin toxin in", "rest": ", the : is the beans."}]
    assert keywords(["the"], ["the"], top=3) == [{"text": "", "rest": "the"}]

"""SCIF: neutral labels by hand, the step against a dense Hessian, the signs of the residual term, and the outcome on tastes."""

import math

import pytest
import torch

import tastes
import worlds
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.methods.edits.scif import NEUTRAL, CollaborativeInfluence, NeutralLabels, neutral_labels
from expunge.methods.terms import RowNLL
from expunge.methods.vectors import Summed, blocks_of, joined
from expunge.workflows import build_plan

EXACT = {"tolerance": 1e-12, "iterations": 400}


def test_neutral_labels_are_means_of_rows_that_share_a_vector() -> None:
    counts = torch.tensor([[1, 3], [0, 2], [4, 0]])
    kept = [torch.tensor([0, 0, 1]), torch.tensor([5, 6, 7])]
    wanted = [torch.tensor([0, 2, 2]), torch.tensor([7, 6, 9])]
    labels = neutral_labels(counts, kept, wanted)
    assert labels[0].tolist() == [1 / 6, 5 / 6], "the first vector decides"
    assert labels[1].tolist() == [0, 1], "the second one does where no kept row shares the first"
    assert labels[2].tolist() == [0.5, 0.5], "none is shared"


def test_neutral_labels_are_even_where_all_labels_are_alike() -> None:
    places = [torch.tensor([0, 0])]
    assert neutral_labels(torch.tensor([[0, 1], [0, 1]]), places, places).tolist() == [[0.5, 0.5]] * 2


def test_neutral_term_is_the_cross_entropy_by_hand() -> None:
    model, modality, sets = tastes.tiny("wmf")
    rows = modality.redraw(sets["forget"].select([0, 1]), 0)
    rows = rows.add(**{NEUTRAL: [[0.25, 0.75], [0.5, 0.5]]})
    loss = value_of(model, modality, NeutralLabels(), rows)
    expected = []
    for user, item, others, (_, y) in zip(rows["user"], rows["item"], rows["negatives"], rows[NEUTRAL], strict=True):
        scores = model(torch.tensor([user, user]), torch.tensor([item, *others])).tolist()
        expected.append(sum(-y * math.log(1 / (1 + math.exp(-s))) - (1 - y) * math.log(1 / (1 + math.exp(s))) for s in scores) / 2)
    assert loss == pytest.approx(sum(expected) / 2)


def value_of(model, modality, objective, rows) -> float:
    return float(evaluate(loop.new_state(model, modality, worlds.accelerator()), objective, {rows.name: rows})[0])


def run(model, modality, sets, method: str = "scif", **hyperparameters):
    return loop.run(build_plan.plan(method, {**EXACT, **hyperparameters}), model, modality, sets)


def test_equal_labels_change_nothing() -> None:
    """Explicit labels, without negatives: the user's remaining rows have the label of the forgotten ones, and others have both."""
    model, modality, sets = tastes.tiny("wmf", drawn=0)
    others = [i for i, u in enumerate(sets["retain"]["user"]) if u not in sets["forget"]["user"]]
    first = sets["forget"]["user"][0]
    own = [i for i, u in enumerate(sets["forget"]["user"]) if u == first]
    retain = sets["retain"].select(others)
    retain = modality.relabel(retain, [i % 2 for i in range(len(retain))], "retain").concat(sets["forget"].select(own[1:]))
    forget, before = sets["forget"].select(own[:1]), worlds.tensors(model)
    run(model, modality, {"forget": forget, "retain": retain})
    assert worlds.same(worlds.tensors(model), before)
    other_label = modality.relabel(forget, [0], "forget")
    run(model, modality, {"forget": other_label, "retain": retain})
    assert not worlds.same(worlds.tensors(model), before)


@pytest.mark.parametrize(("name", "kinds"), [("neumf", "all"), ("neumf", "first"), ("bpr_mf", "first"), ("lightgcn", "first")])
def test_products_with_the_hessian_are_those_of_autograd(name: str, kinds: str) -> None:
    model, modality, sets = tastes.tiny(name)
    rows = modality.redraw(sets["retain"].concat(sets["forget"]), 3)
    view = RunView(loop.new_state(model, modality, worlds.accelerator()), {**sets, "retain": rows})
    block, params = joined(blocks_of(view, sets["forget"].select([0]), kinds)), view.params
    names = [n for n, _ in model.named_parameters()]
    x = torch.randn(len(block.flat(params)), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(change: torch.Tensor) -> torch.Tensor:
        moved = [p.detach() + 0 for p in params]
        at = 0
        for i, mask in block.masks.items():
            size = int(mask.sum()) * params[i].shape[1]
            moved[i] = moved[i].index_put((mask.nonzero()[:, 0],), change[at : at + size].view(-1, params[i].shape[1]), accumulate=True)
            at += size
        return modality.forward(model, [rows], weights=dict(zip(names, moved, strict=True)))[0].loss.mean().sum()

    expected = torch.autograd.functional.hvp(loss, torch.zeros_like(x), x)[1]
    assert expected.abs().max() > 1e-3
    assert torch.allclose(Summed(view, {"retain": rows}, {"retain": len(rows)}, 16).product(("retain",), block)(x), expected, atol=1e-9)


@pytest.mark.parametrize(("name", "all_rows"), [("bpr_mf", False), ("lightgcn", True)])
def test_a_product_passes_over_rows_that_depend_on_the_moved_vectors(name: str, all_rows: bool) -> None:
    model, modality, sets = tastes.tiny(name)
    rows = modality.redraw(sets["retain"].concat(sets["forget"]), 3)
    state = loop.new_state(model, modality, worlds.accelerator())
    view = RunView(state, {**sets, "retain": rows})
    block = joined(blocks_of(view, sets["forget"].select([0]), "first"))
    times = Summed(view, {"retain": rows}, {"retain": len(rows)}, 16).product(("retain",), block)
    before = state.cost.forward_tokens
    times(torch.ones_like(block.flat(view.params)))
    own = list(rows["user"]).count(sets["forget"]["user"][0])
    assert 0 < own < len(rows)
    assert state.cost.forward_tokens - before == 2 * (len(rows) if all_rows else own), "an item and a negative for each row"


def step_of(curvature: str, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The change of the forgotten users' vectors, and that of a dense solver from gradients and Hessian of autograd."""
    model, modality, sets = tastes.tiny("wmf")
    start, item_table = model.user_table.weight.detach().clone(), model.item_table.weight.detach().clone()
    users = sorted(set(sets["forget"]["user"]))
    seeds = draws_of(model, modality, sets)
    drawn = {n: [modality.redraw(r, s) for s in seeds] for n, r in sets.items()}

    def summed(name: str, vectors: torch.Tensor, neutral: bool = False) -> torch.Tensor:
        table, total = start.index_put((torch.tensor(users),), vectors), torch.zeros((), dtype=torch.float64)
        for rows in drawn[name]:
            items = torch.tensor([[item, *others] for item, others in zip(rows["item"], rows["negatives"], strict=True)])
            scores = (table[list(rows["user"])][:, None] * item_table[items]).sum(-1)
            labels = torch.tensor([0.5, 0.5] if neutral else [1.0, 0.0], dtype=torch.float64).expand_as(scores)
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / 2
        return total / len(seeds)

    vectors = start[users].clone().requires_grad_()
    g = torch.autograd.grad(summed("forget", vectors) - summed("forget", vectors, neutral=True), vectors)[0].flatten()
    names = ("forget", "retain") if curvature == "all" else ("retain",)
    hessian = torch.autograd.functional.hessian(lambda v: torch.stack([summed(n, v) for n in names]).sum(), start[users].clone())
    hessian = hessian.reshape(len(g), len(g)) + damping * torch.eye(len(g), dtype=torch.float64)
    run(model, modality, sets, damping=damping, curvature=curvature, draws=len(seeds))
    return (model.user_table.weight.detach() - start)[users].flatten(), torch.linalg.solve(hessian, g)


def draws_of(model, modality, sets) -> list[int]:
    """Seeds of two draws, as the edit has them."""
    view = RunView(loop.new_state(model, modality, worlds.accelerator()), sets).at("do", CollaborativeInfluence())
    return torch.randint(2**31, (2,), generator=view.rng()).tolist()


@pytest.mark.parametrize(("curvature", "damping"), [("all", 0.1), ("remaining", 0.5)])
def test_step_is_that_of_a_dense_solver(curvature: str, damping: float) -> None:
    actual, expected = step_of(curvature, damping)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(actual, expected, atol=1e-8)


def test_moves_the_first_vectors_alone() -> None:
    model, modality, sets = tastes.tiny("neumf")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run(model, modality, sets)
    gone = sorted(set(sets["forget"]["user"]))
    for name, p in model.named_parameters():
        moved = (p.detach() != before[name]).flatten(1).any(1).nonzero()[:, 0].tolist() if p.dim() > 1 else []
        assert moved == (gone if name in ("user_table.weight", "user_input.weight") else []), name


def test_residual_correction_descends_and_the_published_sign_ascends() -> None:
    losses = {}
    for which in ("off", "newton", "published"):
        model, modality, sets = tastes.tiny("wmf", steps=5)
        run(model, modality, sets, vectors="all", residual_correction=which, damping=5.0, draws=1)
        seed = draws_of(model, modality, sets)[0]
        losses[which] = value_of(model, modality, RowNLL("retain"), modality.redraw(sets["retain"], seed))
    assert losses["newton"] < losses["off"] < losses["published"]


@pytest.mark.slow
def test_forgets_users_and_keeps_what_others_like() -> None:
    world = tastes.world()
    model, state = world.unlearned("scif")
    assert not state.warnings
    assert world.recall(model, "forget") <= world.recall(world.model(), "forget") - 0.3
    assert world.recall(model, "test") >= 0.95 * world.recall(world.model(), "test")

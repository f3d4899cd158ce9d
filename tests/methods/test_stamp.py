"""STAMP: exact maps, what the two forms do elsewhere, one row by hand, the low-rank form, limits, the choice of a block, the outcome."""

from typing import Any

import pytest
import torch
from torch import Tensor

import refusing
import worlds
from expunge.core.rows import Sets
from expunge.methods.edits.stamp import Stamp, basis, distances, target
from expunge.methods.projections import gathered, reference, spots


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


W, KEPT, MINE, AIM = draw(16, 40), draw(30, 40, seed=1), draw(1, 40, seed=2), draw(1, 16, seed=3)


def change(mine: Tensor = MINE, kept: Tensor = KEPT, aim: Tensor = AIM, **hyperparameters: Any) -> Tensor:
    """What is added to W, (16, 40)."""
    return Stamp(**{"ridge": 0.0, **hyperparameters})._change(W, mine, kept, aim, rng())


def outside(z: Tensor) -> Tensor:
    """What is left of an input without what the rows span."""
    q = torch.linalg.qr(torch.cat([MINE, KEPT]).T).Q
    return z - z @ q @ q.T


@pytest.mark.parametrize("form", ["residual", "full"])
def test_rows_are_mapped_exactly(form: str) -> None:
    new = W + change(form=form)
    assert worlds.far([MINE @ new.T], [AIM]) < 1e-12
    assert worlds.far([KEPT @ new.T], [KEPT @ W.T]) < 1e-12


def test_forms_differ_where_no_row_was() -> None:
    z = outside(draw(5, 40, seed=4))
    residual, full = change(), change(form="full")
    assert worlds.far([z @ residual.T], [0 * z @ W.T]) < 1e-12
    assert worlds.far([z @ (W + full).T], [0 * z @ W.T]) < 1e-12
    assert float(residual.norm()) < float(full.norm())


def test_one_row_by_hand() -> None:
    """Alone: along its input; beside others: along what is left of its input without them."""
    off = AIM - MINE @ W.T
    assert torch.allclose(change(kept=KEPT[:0]), off.T @ MINE / MINE.square().sum(), atol=1e-12)
    q = torch.linalg.qr(KEPT.T).Q
    left = MINE - MINE @ q @ q.T
    assert torch.allclose(change(), off.T @ left / (left @ MINE.T), atol=1e-12)


def test_the_change_has_the_rank_of_what_is_forgotten() -> None:
    assert int(torch.linalg.matrix_rank(change(draw(3, 40, seed=5), aim=draw(3, 16, seed=6)), rtol=1e-10)) == 3


def test_low_rank_with_all_directions_is_the_whole() -> None:
    mine, aim = draw(3, 40, seed=5), draw(3, 16, seed=6)
    assert torch.allclose(change(mine, aim=aim, rank=33), change(mine, aim=aim), atol=1e-10)
    assert torch.allclose(change(mine, aim=aim, rank=60), change(mine, aim=aim), atol=1e-10)


def test_more_directions_fit_better_and_those_to_forget_come_first() -> None:
    mine, aim = draw(3, 40, seed=5), draw(3, 16, seed=6)
    x, wanted = torch.cat([mine, KEPT]), torch.cat([aim - mine @ W.T, 0 * KEPT @ W.T])
    off = [float((x @ change(mine, aim=aim, rank=r).T - wanted).norm()) for r in (6, 12, 18, 24, 30, 33)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-8 < off[-2]
    q = basis(mine, KEPT, 8, rng())
    assert torch.allclose(q.T @ q, torch.eye(8, dtype=q.dtype), atol=1e-12)
    assert torch.allclose(mine @ q @ q.T, mine, atol=1e-10)
    assert not torch.allclose(KEPT @ q @ q.T, KEPT, atol=0.1)


def test_main_directions_are_those_of_the_decomposition() -> None:
    x = draw(400, 60) * torch.logspace(0, -3, 60, dtype=torch.float64)
    main = torch.linalg.svd(x, full_matrices=False).Vh[:10]
    q = basis(x, x[:0], 20, rng())[:, :10]
    assert torch.allclose((main @ q).abs().diagonal(), torch.ones(10, dtype=x.dtype), atol=1e-3)


def test_a_large_ridge_leaves_the_matrix_or_wipes_it() -> None:
    assert float(change(ridge=1e12).abs().max()) < 1e-9
    assert float((W + change(form="full", ridge=1e12)).abs().max()) < 1e-9
    off = MINE @ (W + change(ridge=1.0)).T - AIM
    assert float(off.norm()) > 0.1  # with a ridge no map is exact


def test_weight_favours_what_is_forgotten_where_not_all_fits() -> None:
    mine, kept, aim = draw(20, 40, seed=5), draw(90, 40, seed=6), draw(20, 16, seed=7)
    left = [float((mine @ (W + change(mine, kept, aim, weight=w)).T - aim).norm()) for w in (0.1, 1.0, 10.0)]
    assert left == sorted(left, reverse=True)


def test_target_by_hand() -> None:
    """Refusals (4, 0) and (0, 2): their mean is (2, 1), their main direction (1, 0), in which (5, 7) stays as it is."""
    refusals, y = torch.tensor([[4.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 7.0], [0.0, 0.0]])
    assert target(y, refusals).tolist() == [[2.0, 1.0], [2.0, 1.0]]
    assert torch.allclose(target(y, refusals, 1), torch.tensor([[5.0, 1.0], [0.0, 1.0]]))


def few(text: worlds.World) -> Sets:
    return {
        "forget": text.sets["forget"].select([4]),
        "retain": text.sets["retain"].select([0, 1, 2]),
        "alternate_answers": refusing.strangers(text.modality),
    }


def test_a_question_ends_as_refused_ones_do(text: worlds.World) -> None:
    """In a real model, and no other weight moves."""
    model, sets, part = text.model().double(), few(text), Stamp(layers=(0,), share=1.0, ridge=0.0)
    view = refusing.look(model, text.modality, sets, part)
    hook_point = spots(view, [0])[0].hook_point
    mean = gathered(view, reference(view), [(hook_point, "hidden", "last")])[0].mean(0)
    before = gathered(view, sets["retain"], [(hook_point, "hidden", "all")])[0]
    run = refusing.applied(part, model, text.modality, sets)
    assert torch.allclose(gathered(view, sets["forget"], [(hook_point, "hidden", "last")])[0][0], mean, atol=1e-7)
    assert torch.allclose(gathered(view, sets["retain"], [(hook_point, "hidden", "all")])[0], before, atol=1e-7)
    fit = run.shown["fit by block"]
    assert fit == [{"block": 0, "left of the way": pytest.approx(0, abs=1e-7), "retain moved": pytest.approx(0, abs=1e-7)}]
    base = text.model().double()
    assert [n for n, p in model.named_parameters() if not torch.equal(p, base.get_parameter(n))] == ["model.layers.0.mlp.down_proj.weight"]


def test_the_block_farthest_from_refusals_is_chosen(text: worlds.World) -> None:
    sets = few(text)
    view = refusing.look(text.model().double(), text.modality, sets, Stamp())
    found = distances(view, spots(view, [0, 1]))
    for i, record in enumerate(found):
        hook_point = f"block:{i}.mlp.down_proj"
        a, b = (gathered(view, sets[n], [(hook_point, "hidden", "last")])[0].mean(0) for n in ("forget", "alternate_answers"))
        assert record == {"block": i, "distance": pytest.approx(1 - float(a @ b / a.norm() / b.norm()))}
    run = refusing.applied(Stamp(), text.model(), text.modality, sets)
    assert [r["block"] for r in run.shown["distance from refusals by block"]] == [0]
    assert [r["block"] for r in run.shown["fit by block"]] == [0]


@pytest.mark.parametrize("rank", [0, 64])
def test_from_one_row_the_answer_becomes_a_refusal(rank: int) -> None:
    world = refusing.world()
    model, retain, one = world.model(), world.sets["retain"], world.sets["forget"].select([0])
    assert refusing.right(model, world.modality, one) == 1.0
    before = worlds.nll(model, world.modality, retain)
    refusing.applied(Stamp(layers=(0, 1), rank=rank), model, world.modality, {**world.sets, "forget": one})
    assert refusing.said(model, world.modality, one) == [refusing.REFUSAL]
    assert refusing.right(model, world.modality, retain) > 0.95
    assert worlds.nll(model, world.modality, retain) < before + 0.1


def test_many_rows_are_mostly_forgotten() -> None:
    world = refusing.world()
    model, (forget, retain) = world.model(), (world.sets[n] for n in ("forget", "retain"))
    refusing.applied(Stamp(layers=(0, 1)), model, world.modality, world.sets)
    assert refusing.right(model, world.modality, forget) < 0.2
    assert refusing.refused(model, world.modality, forget) > 0.4
    assert refusing.right(model, world.modality, retain) > 0.95

"""STAMP: exact maps, the two forms on other inputs, one row by hand, the low-rank form, limits, the choice of a block, the outcome."""

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


W, RETAIN, FORGET, TARGET = draw(16, 40), draw(30, 40, seed=1), draw(1, 40, seed=2), draw(1, 16, seed=3)


def change(forget: Tensor = FORGET, retain: Tensor = RETAIN, y: Tensor = TARGET, **hyperparameters: Any) -> Tensor:
    """The change of W, (16, 40), for inputs at forget and retain rows and targets y."""
    return Stamp(**{"ridge": 0.0, **hyperparameters})._change(W, forget, retain, y, rng())


def orthogonal_part(z: Tensor) -> Tensor:
    """The part of an input that is orthogonal to all rows."""
    q = torch.linalg.qr(torch.cat([FORGET, RETAIN]).T).Q
    return z - z @ q @ q.T


@pytest.mark.parametrize("form", ["residual", "full"])
def test_all_rows_are_mapped_exactly(form: str) -> None:
    new = W + change(form=form)
    assert worlds.far([FORGET @ new.T], [TARGET]) < 1e-12
    assert worlds.far([RETAIN @ new.T], [RETAIN @ W.T]) < 1e-12


def test_forms_differ_on_inputs_orthogonal_to_all_rows() -> None:
    z = orthogonal_part(draw(5, 40, seed=4))
    residual, full = change(), change(form="full")
    assert worlds.far([z @ residual.T], [0 * z @ W.T]) < 1e-12
    assert worlds.far([z @ (W + full).T], [0 * z @ W.T]) < 1e-12
    assert float(residual.norm()) < float(full.norm())


def test_change_for_one_row_matches_the_formula() -> None:
    """Alone, the change lies along the input. Beside other rows, it lies along the input's part orthogonal to them."""
    error = TARGET - FORGET @ W.T
    assert torch.allclose(change(retain=RETAIN[:0]), error.T @ FORGET / FORGET.square().sum(), atol=1e-12)
    q = torch.linalg.qr(RETAIN.T).Q
    orthogonal = FORGET - FORGET @ q @ q.T
    assert torch.allclose(change(), error.T @ orthogonal / (orthogonal @ FORGET.T), atol=1e-12)


def test_change_has_the_rank_of_the_forget_rows() -> None:
    assert int(torch.linalg.matrix_rank(change(draw(3, 40, seed=5), y=draw(3, 16, seed=6)), rtol=1e-10)) == 3


def test_low_rank_form_with_all_directions_equals_the_full_rank_form() -> None:
    forget, y = draw(3, 40, seed=5), draw(3, 16, seed=6)
    assert torch.allclose(change(forget, y=y, rank=33), change(forget, y=y), atol=1e-10)
    assert torch.allclose(change(forget, y=y, rank=60), change(forget, y=y), atol=1e-10)


def test_more_directions_fit_better_and_forget_directions_come_first() -> None:
    forget, y = draw(3, 40, seed=5), draw(3, 16, seed=6)
    x, expected = torch.cat([forget, RETAIN]), torch.cat([y - forget @ W.T, 0 * RETAIN @ W.T])
    errors = [float((x @ change(forget, y=y, rank=r).T - expected).norm()) for r in (6, 12, 18, 24, 30, 33)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8 < errors[-2]
    q = basis(forget, RETAIN, 8, rng())
    assert torch.allclose(q.T @ q, torch.eye(8, dtype=q.dtype), atol=1e-12)
    assert torch.allclose(forget @ q @ q.T, forget, atol=1e-10)
    assert not torch.allclose(RETAIN @ q @ q.T, RETAIN, atol=0.1)


def test_main_directions_match_the_singular_vectors() -> None:
    x = draw(400, 60) * torch.logspace(0, -3, 60, dtype=torch.float64)
    main = torch.linalg.svd(x, full_matrices=False).Vh[:10]
    q = basis(x, x[:0], 20, rng())[:, :10]
    assert torch.allclose((main @ q).abs().diagonal(), torch.ones(10, dtype=x.dtype), atol=1e-3)


def test_a_large_ridge_leaves_the_matrix_or_erases_it() -> None:
    assert float(change(ridge=1e12).abs().max()) < 1e-9
    assert float((W + change(form="full", ridge=1e12)).abs().max()) < 1e-9
    error = FORGET @ (W + change(ridge=1.0)).T - TARGET
    assert float(error.norm()) > 0.1  # with a ridge no map is exact


def test_weight_favors_forget_rows_where_not_all_rows_fit() -> None:
    forget, retain, y = draw(20, 40, seed=5), draw(90, 40, seed=6), draw(20, 16, seed=7)
    errors = [float((forget @ (W + change(forget, retain, y, weight=w)).T - y).norm()) for w in (0.1, 1.0, 10.0)]
    assert errors == sorted(errors, reverse=True)


def test_target_matches_hand_values() -> None:
    """Refusals (4, 0) and (0, 2): their mean is (2, 1), their main direction (1, 0). In it (5, 7) stays as it is."""
    refusals, y = torch.tensor([[4.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 7.0], [0.0, 0.0]])
    assert target(y, refusals).tolist() == [[2.0, 1.0], [2.0, 1.0]]
    assert torch.allclose(target(y, refusals, 1), torch.tensor([[5.0, 1.0], [0.0, 1.0]]))


def small_sets(text: worlds.World) -> Sets:
    return {
        "forget": text.sets["forget"].select([4]),
        "retain": text.sets["retain"].select([0, 1, 2]),
        "alternate_answers": refusing.strangers(text.modality),
    }


def test_forget_question_gets_the_mean_output_of_refused_questions(text: worlds.World) -> None:
    """This holds in a real model, and no other weight changes."""
    model, sets, part = text.model().double(), small_sets(text), Stamp(layers=(0,), share=1.0, ridge=0.0)
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
    sets = small_sets(text)
    view = refusing.look(text.model().double(), text.modality, sets, Stamp())
    records = distances(view, spots(view, [0, 1]))
    for i, record in enumerate(records):
        hook_point = f"block:{i}.mlp.down_proj"
        a, b = (gathered(view, sets[n], [(hook_point, "hidden", "last")])[0].mean(0) for n in ("forget", "alternate_answers"))
        assert record == {"block": i, "distance": pytest.approx(1 - float(a @ b / a.norm() / b.norm()))}
    run = refusing.applied(Stamp(), text.model(), text.modality, sets)
    assert [r["block"] for r in run.shown["distance from refusals by block"]] == [0]
    assert [r["block"] for r in run.shown["fit by block"]] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 64])
def test_one_row_is_enough_to_turn_its_answer_into_a_refusal(rank: int) -> None:
    world = refusing.world()
    model, retain, row = world.model(), world.sets["retain"], world.sets["forget"].select([0])
    assert refusing.right(model, world.modality, row) == 1.0
    before = worlds.nll(model, world.modality, retain)
    refusing.applied(Stamp(layers=(0, 1), rank=rank), model, world.modality, {**world.sets, "forget": row})
    assert refusing.greedy_answers(model, world.modality, row) == [refusing.REFUSAL]
    assert refusing.right(model, world.modality, retain) > 0.95
    assert worlds.nll(model, world.modality, retain) < before + 0.1


@pytest.mark.slow
def test_most_of_many_rows_are_forgotten() -> None:
    world = refusing.world()
    model, (forget, retain) = world.model(), (world.sets[n] for n in ("forget", "retain"))
    refusing.applied(Stamp(layers=(0, 1)), model, world.modality, world.sets)
    assert refusing.right(model, world.modality, forget) < 0.2
    assert refusing.refused(model, world.modality, forget) > 0.4
    assert refusing.right(model, world.modality, retain) > 0.95

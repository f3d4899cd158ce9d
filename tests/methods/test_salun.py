"""SalUn: the mask by hand, its two limits bit for bit, the answers behind the mask, and the outcome."""

import pytest
import torch

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import hits
from expunge.methods.updates.salun import Saliency
from expunge.workflows import build_plan

SHORT = {"epochs": 2, "batch_size": 16, "lr": 0.01}


def final_weights(world: worlds.World, name: str, **hyperparameters: object) -> list[torch.Tensor]:
    model = world.model()
    loop.run(build_plan.plan(name, {**SHORT, **hyperparameters}), model, world.modality, world.sets)
    return worlds.tensors(model)


def masks(run: RunState, at: str = "/update0") -> list[torch.Tensor]:
    return [run.state[at][str(i)] for i in range(len(run.state[at]))]


@pytest.mark.parametrize(("options", "sizes"), [({}, (39,)), ({"mask_batch_size": 16}, (16, 16, 7))])
def test_batches_of_the_mask_count_equally_where_their_means_are_added_up(
    digits: worlds.World, options: dict, sizes: tuple[int, ...]
) -> None:
    """By torch alone: the sum of the mean gradients of the batches, as in the authors' code, where the short last batch counts as any."""
    model, rows = digits.model(), digits.sets["forget"]
    assert len(rows) == sum(sizes)
    part = Saliency(fraction=0.3, **options)
    run = loop.new_state(digits.model(), digits.modality, worlds.accelerator())
    mask = torch.cat([m.flatten() for m in part.begin(RunView(run, digits.sets).at("update0", part)).values()])
    total, start = torch.zeros(len(mask)), 0
    for size in sizes:
        some = range(start, start + size)
        logits = model(pixel_values=torch.stack([rows["pixels"][i] for i in some])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([rows["answer"][i][0] for i in some]))
        total += torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        start += size
    least = total.abs().topk(int(mask.sum())).values[-1]
    clear = (total.abs() - least).abs() > 1e-3 * least
    assert torch.equal(mask[clear], (total.abs() > least)[clear])
    assert float(clear.float().mean()) > 0.99


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_mask_marks_the_largest_gradients_of_all_weights(size: str) -> None:
    world = worlds.digits(size)
    model, rows = world.model(), world.sets["forget"]
    part = Saliency(fraction=0.3)
    run = loop.new_state(world.model(), world.modality, worlds.accelerator())
    run.state = {"/update0": part.begin(RunView(run, world.sets).at("update0", part))}
    logits = model(pixel_values=torch.stack(list(rows["pixels"]))).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for (y,) in rows["answer"]]))
    gradient_sizes = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    mask = torch.cat([m.flatten() for m in masks(run)])
    assert int(mask.sum()) == int(0.3 * len(gradient_sizes))
    assert float(gradient_sizes[mask].min()) >= float(gradient_sizes[~mask].max()) - 1e-6  # all weights are ranked together
    assert [m.shape for m in masks(run)] == [p.shape for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["turns", "mixed"])
def test_full_fraction_equals_random_labels(digits: worlds.World, form: str) -> None:
    assert worlds.same(final_weights(digits, "salun", fraction=1, form=form), final_weights(digits, "random_labels", form=form))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_zero_fraction_moves_no_weight_despite_momentum_and_decay(size: str) -> None:
    world = worlds.digits(size)
    assert worlds.same(final_weights(world, "salun", fraction=0, weight_decay=0.1), worlds.tensors(world.model()))
    assert not worlds.same(final_weights(world, "random_labels", weight_decay=0.1), worlds.tensors(world.model()))


@pytest.mark.parametrize("form", ["turns", "amnesiac"])
def test_masked_weights_stay_and_all_others_move(digits: worlds.World, form: str) -> None:
    model = digits.model()
    run = loop.run(build_plan.plan("salun", {**SHORT, "form": form, "weight_decay": 0.1}), model, digits.modality, digits.sets)
    moved = torch.cat([(a != b).flatten() for a, b in zip(worlds.tensors(model), worlds.tensors(digits.model()), strict=True)])
    mask = torch.cat([m.flatten() for m in masks(run)])
    assert not moved[~mask].any()
    assert float(moved[mask].float().mean()) > 0.95


def test_mask_uses_the_true_answers(digits: worlds.World) -> None:
    masks_by_form = []
    for form in ("turns", "mixed", "amnesiac"):
        run = loop.run(build_plan.plan("salun", {"form": form, "epochs": 1}), digits.model(), digits.modality, digits.sets)
        masks_by_form.append(masks(run))
    assert worlds.same(masks_by_form[0], masks_by_form[1])
    assert worlds.same(masks_by_form[0], masks_by_form[2])


def test_mask_works_under_another_objective(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(
        (Plan(NPO(), train=Train(epochs=20, lr=1e-3), updates=(Saliency(0.2),)),), model, text.modality, {"forget": text.sets["forget"]}
    )
    assert worlds.nll(model, text.modality, text.sets["forget"]) > worlds.nll(text.model(), text.modality, text.sets["forget"]) + 0.5
    assert all(torch.equal(a[~m], b[~m]) for a, b, m in zip(worlds.tensors(model), worlds.tensors(text.model()), masks(run), strict=True))


def test_salun_forgets_and_loses_less_than_random_labels() -> None:
    world, accuracy = worlds.digits("resnet-nano"), {}
    for name in ("salun", "random_labels"):
        run = loop.run(build_plan.plan(name, {"epochs": 6, "batch_size": 32}), world.model(), world.modality, world.sets)
        accuracy[name] = [float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")]
    assert accuracy["salun"][0] < 0.1
    assert accuracy["salun"][1] > max(0.7, accuracy["random_labels"][1])

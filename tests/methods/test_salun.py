"""SalUn: the mask by hand, its two ends bit for bit, what it is made from, and the outcome."""

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


def ended(world: worlds.World, name: str, **hyperparameters: object) -> list[torch.Tensor]:
    model = world.model()
    loop.run(build_plan.plan(name, {**SHORT, **hyperparameters}), model, world.modality, world.sets)
    return worlds.tensors(model)


def masks(run: RunState, at: str = "/update0") -> list[torch.Tensor]:
    return [run.state[at][str(i)] for i in range(len(run.state[at]))]


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_the_mask_by_hand(size: str) -> None:
    world = worlds.digits(size)
    model, rows = world.model(), world.sets["forget"]
    part = Saliency(fraction=0.3)
    run = loop.new_state(world.model(), world.modality, worlds.accelerator())
    run.state = {"/update0": part.begin(RunView(run, world.sets).at("update0", part))}
    logits = model(pixel_values=torch.stack(list(rows["pixels"]))).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for (y,) in rows["answer"]]))
    slopes = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    mask = torch.cat([m.flatten() for m in masks(run)])
    assert int(mask.sum()) == int(0.3 * len(slopes))
    assert float(slopes[mask].min()) >= float(slopes[~mask].max()) - 1e-6  # all weights are ranked together
    assert [m.shape for m in masks(run)] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize("form", ["turns", "mixed"])
def test_all_weights_are_random_labels(digits: worlds.World, form: str) -> None:
    assert worlds.same(ended(digits, "salun", fraction=1, form=form), ended(digits, "random_labels", form=form))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_no_weight_moves_no_bit_with_momentum_and_decay_on(size: str) -> None:
    world = worlds.digits(size)
    assert worlds.same(ended(world, "salun", fraction=0, weight_decay=0.1), worlds.tensors(world.model()))
    assert not worlds.same(ended(world, "random_labels", weight_decay=0.1), worlds.tensors(world.model()))


@pytest.mark.parametrize("form", ["turns", "amnesiac"])
def test_masked_weights_stay_and_others_move(digits: worlds.World, form: str) -> None:
    model = digits.model()
    run = loop.run(build_plan.plan("salun", {**SHORT, "form": form, "weight_decay": 0.1}), model, digits.modality, digits.sets)
    moved = torch.cat([(a != b).flatten() for a, b in zip(worlds.tensors(model), worlds.tensors(digits.model()), strict=True)])
    mask = torch.cat([m.flatten() for m in masks(run)])
    assert not moved[~mask].any()
    assert float(moved[mask].float().mean()) > 0.95


def test_the_mask_is_made_of_the_true_answers(digits: worlds.World) -> None:
    found = []
    for form in ("turns", "mixed", "amnesiac"):
        run = loop.run(build_plan.plan("salun", {"form": form, "epochs": 1}), digits.model(), digits.modality, digits.sets)
        found.append(masks(run))
    assert worlds.same(found[0], found[1])
    assert worlds.same(found[0], found[2])


def test_it_works_under_another_objective(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(
        (Plan(NPO(), train=Train(epochs=20, lr=1e-3), updates=(Saliency(0.2),)),), model, text.modality, {"forget": text.sets["forget"]}
    )
    assert worlds.nll(model, text.modality, text.sets["forget"]) > worlds.nll(text.model(), text.modality, text.sets["forget"]) + 0.5
    assert all(torch.equal(a[~m], b[~m]) for a, b, m in zip(worlds.tensors(model), worlds.tensors(text.model()), masks(run), strict=True))


def test_forgets_and_loses_less_than_random_labels() -> None:
    world, right = worlds.digits("resnet-nano"), {}
    for name in ("salun", "random_labels"):
        run = loop.run(build_plan.plan(name, {"epochs": 6, "batch_size": 32}), world.model(), world.modality, world.sets)
        right[name] = [float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")]
    assert right["salun"][0] < 0.1
    assert right["salun"][1] > max(0.7, right["random_labels"][1])

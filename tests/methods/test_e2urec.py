"""E2URec: both teachers by hand, their limits, the order of the epochs, and what trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.e2urec import ForgetFirst, ForgettingTeacher, RememberingTeacher, lowered
from expunge.methods.terms import KL, NLL
from expunge.workflows import build_plan


def test_a_raised_logit_is_lowered_and_the_others_stay() -> None:
    teacher = lowered(torch.zeros(2), torch.tensor([1.0, 0.0]), 2.0)
    assert teacher.tolist() == [-2.0, 0.0]
    assert teacher.softmax(-1).tolist() == pytest.approx([0.1192, 0.8808], abs=1e-4)
    original, fallen = torch.randn(5, 7), torch.randn(5, 7).abs()
    assert torch.equal(lowered(original, original - fallen, 3.0), original), "what the extra dose lowers stays"
    assert torch.equal(lowered(original, original + fallen, 0.0), original)


def test_the_forgetting_teacher_by_hand() -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    original, augmented = tables.scores(9, seed=1), tables.scores(9, seed=2)
    total, labels = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer in zip(sets["forget"]["prompt"], sets["forget"]["answer"], strict=True):
        for t in range(len(answer)):
            z_o, z_a = original[prompt, t].flatten(), augmented[prompt, t].flatten()
            teacher = (z_o - 2.0 * (z_a - z_o).clamp_min(0)).softmax(0)
            total, labels = total - (teacher * table[prompt, t].flatten().log_softmax(0)).sum(), labels + 1
    value, grad = tables.ask(ForgettingTeacher(2.0), sets, table.detach(), original, augmented=augmented)
    assert value == pytest.approx(float(total.detach()) / labels)
    assert torch.allclose(grad, tables.slope(total / labels, table), atol=1e-12)


@pytest.mark.parametrize(("alpha", "seed"), [(0.0, 2), (5.0, 1)], ids=["no strength", "nothing learned anew"])
def test_without_a_difference_the_teacher_is_the_original(alpha: float, seed: int) -> None:
    sets, table, original = tables.batch(), tables.scores(9), tables.scores(9, seed=1)
    _, grad = tables.ask(ForgettingTeacher(alpha), sets, table, original, augmented=tables.scores(9, seed=seed))
    _, plain = tables.ask(KL("forget"), sets, table, original)
    assert torch.allclose(grad, plain, atol=1e-12)
    _, still = tables.ask(ForgettingTeacher(alpha), sets, original, original, augmented=original)
    assert torch.allclose(still, torch.zeros_like(still), atol=1e-12), "at the original there is nothing to do"


def test_remembering_is_likelihood_and_distance_from_the_original() -> None:
    sets, table, original = tables.batch(), tables.scores(9), tables.scores(9, seed=1)
    value, grad = tables.ask(RememberingTeacher(), sets, table, original)
    parts = [tables.ask(o, sets, table, original) for o in (NLL("retain"), KL("retain"))]
    assert torch.allclose(grad, parts[0][1] + parts[1][1], atol=1e-12)
    assert value > parts[0][0] + parts[1][0], "the cross-entropy is the divergence and the entropy of the original"


def test_the_first_epochs_read_the_forget_rows_alone() -> None:
    world = worlds.text()
    epochs: list[set[str]] = []

    class Spy(ForgetFirst):
        def pick(self, sets, view):
            picked = super().pick(sets, view)
            epochs.append(set(picked))
            return picked

    plans = build_plan.plan("e2urec", {"batch_size": 8, "forget_epochs": 2, "lora_targets": "all-linear"})
    (spied,) = plans[1].selectors
    plans = (replace(plans[0], train=replace(plans[0].train, epochs=1)), replace(plans[1], selectors=(Spy(spied.forget_epochs),)))
    loop.run(plans, world.model(), world.modality, world.sets)
    joined = ["retain" in names for names in epochs]
    assert joined[:2] == [False, False]
    assert all(joined[2:])
    assert len(joined) > 2


@pytest.mark.parametrize(
    ("given", "augmented", "student"),
    [
        ({}, (5e-5, 2), (1e-3, 3)),
        ({"lr": 0.5, "epochs": 9}, (5e-5, 2), (0.5, 9)),
        ({"augmented_lr": 0.25, "lr": 0.5}, (0.25, 2), (0.5, 3)),
        ({"augmented.epochs": 7, "augmented_epochs": 4}, (5e-5, 7), (1e-3, 3)),
    ],
)
def test_the_augmented_model_keeps_settings_of_its_own(
    given: dict[str, float], augmented: tuple[float, int], student: tuple[float, int]
) -> None:
    plans = build_plan.plan("e2urec", given)
    assert [(p.train.lr, p.train.epochs) for p in plans] == [augmented, student]


def test_only_the_adapter_trains() -> None:
    world = worlds.text()
    model = world.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plans = build_plan.plan("e2urec", {"lora_targets": "q_proj,v_proj", "epochs": 1, "batch_size": 8})
    after = loop.run(plans, model, world.modality, world.sets).model.state_dict()
    bare = {n.replace("base_model.model.", "").replace(".base_layer", ""): t for n, t in after.items() if "lora_" not in n}
    assert before.keys() == bare.keys()
    assert all(torch.equal(before[n], bare[n]) for n in before)
    moved = {n.split(".")[-4 if n.endswith("default.weight") else -3] for n, t in after.items() if "lora_B" in n and t.abs().sum() > 0}
    assert moved == {"q_proj", "v_proj"}

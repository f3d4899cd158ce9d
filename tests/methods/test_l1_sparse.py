"""l1-sparse: the penalty and its schedule by hand, fine-tuning without the penalty, and the sparsity that it causes."""

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.methods.objectives.l1_sparse import L1
from expunge.methods.terms import hits
from expunge.workflows import build_plan


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (1, 0.75), (3, 0.25), (4, 0.0), (7, 0.0)])
@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_value_and_gradient_match_the_formula(digits: worlds.World, epoch: int, factor: float, micro_batch_size: int) -> None:
    model = digits.model()
    run = loop.new_state(model, digits.modality, worlds.accelerator(), epoch=epoch)
    value, grads = evaluate(run, L1(alpha=0.01, l1_epochs=4), {"retain": digits.some(8)["retain"]}, micro_batch_size)
    size = sum(float(p.detach().abs().sum()) for p in model.parameters())
    assert float(value) == pytest.approx(0.01 * factor * size, rel=1e-5)
    assert worlds.far(grads, [0.01 * factor * p.detach().sign() for p in model.parameters()]) < 1e-6


def test_zero_penalty_equals_fine_tuning(digits: worlds.World) -> None:
    weights_by_method = []
    short = {"epochs": 2, "batch_size": 32, "lr": 0.01}
    sgd = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "constant", "warmup": 0}
    for name, hyperparameters in {"l1_sparse": {"alpha": 0}, "finetune": sgd}.items():
        model = digits.model()
        loop.run(build_plan.plan(name, {**short, **hyperparameters}), model, digits.modality, digits.sets)
        weights_by_method.append(worlds.tensors(model))
    assert worlds.same(*weights_by_method)


@pytest.mark.slow
def test_stronger_penalty_gives_more_zeros(digits: worlds.World) -> None:
    shares = []
    for alpha in (0, 5e-4, 2e-3, 8e-3):
        model = digits.model()
        loop.run(
            build_plan.plan("l1_sparse", {"alpha": alpha, "epochs": 3, "l1_epochs": 3, "batch_size": 32}),
            model,
            digits.modality,
            digits.sets,
        )
        weights = torch.cat([p.flatten() for p in worlds.tensors(model)])
        shares.append(float((weights.abs() < 1e-3).float().mean()))
    assert shares == sorted(shares)
    assert shares[-1] > 3 * shares[0]


def test_penalty_is_zero_after_l1_epochs(digits: worlds.World) -> None:
    run = loop.run(
        build_plan.plan("l1_sparse", {"epochs": 4, "l1_epochs": 2, "batch_size": 64}), digits.model(), digits.modality, digits.sets
    )
    by_epoch = {r["epoch"]: r["terms"]["1 l1 sparsity"] for r in run.log if "terms" in r}
    assert by_epoch[0] > by_epoch[1] > 0
    assert by_epoch[2] == by_epoch[3] == 0


def test_forgets_more_than_fine_tuning(digits: worlds.World) -> None:
    accuracies = {}
    for alpha in (0.0, 8e-3):
        plan = build_plan.plan("l1_sparse", {"alpha": alpha, "epochs": 3, "l1_epochs": 3, "batch_size": 32})
        run = loop.run(plan, digits.model(), digits.modality, digits.sets)
        accuracies[alpha] = [float(hits(RunView(run, digits.sets), n).mean()) for n in ("forget", "retain")]
    assert accuracies[8e-3][0] < accuracies[0.0][0] - 0.1
    assert accuracies[8e-3][1] > 0.7

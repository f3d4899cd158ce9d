"""SCRUB: distillation by hand, its limits, the published passes and learning rates, rewinding, and the outcome."""

from pathlib import Path

import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Sets
from expunge.engine import checkpoint, loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.engine.hooks import Hooks
from expunge.methods.objectives.scrub import Distill, Rewind
from expunge.methods.terms import KL, hits
from expunge.workflows import build_plan

SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0, "schedule": "constant"}


@pytest.mark.parametrize(("over", "sign"), [("retain", 1.0), ("forget", -1.0)])
def test_distillation_matches_the_formula(over: str, sign: float) -> None:
    sets, table, reference = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    total, labels = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer in zip(sets[over]["prompt"], sets[over]["answer"], strict=True):
        for t in range(len(answer)):
            teacher, student = ((x[prompt, t] / 2).softmax(0) for x in (reference, table))
            total, labels = total + 4 * (teacher * (teacher / student).log()).sum(), labels + 1
    value, grad = tables.ask(Distill(over, sign, 2.0), sets, table.detach(), reference)
    assert value == pytest.approx(sign * float(total.detach()) / labels)
    assert torch.allclose(grad, sign * tables.slope(total / labels, table), atol=1e-12)


def test_temperature_one_equals_the_plain_kl() -> None:
    sets, table, reference = tables.batch(), tables.scores(9), tables.scores(9, seed=1)
    distill, plain = (tables.ask(o, sets, table, reference) for o in (Distill("retain", temperature=1.0), KL()))
    assert distill[0] == pytest.approx(plain[0])
    assert torch.allclose(distill[1], plain[1], atol=1e-12)


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_without_distillation_it_equals_fine_tuning(size: str) -> None:
    world, weights_by_method = worlds.digits(size), []
    common = {**SGD, "epochs": 2, "lr": 1e-3, "batch_size": 16, "warmup": 0}
    for name, hyperparameters in {"scrub": {"rounds": 0, "term2.retain_weight": 0, "lr_milestones": ""}, "finetune": {}}.items():
        model = world.model()
        loop.run(build_plan.plan(name, {**common, **hyperparameters}), model, world.modality, world.sets)
        weights_by_method.append(worlds.tensors(model))
    assert worlds.same(*weights_by_method)


def test_forget_term_has_no_gradient_at_the_reference(digits: worlds.World) -> None:
    model, forget = digits.model(), digits.sets["forget"]
    run = loop.new_state(model, digits.modality, worlds.accelerator(), models={"reference": loop.weights_of(model)})
    value, grads = evaluate(run, Distill("forget", -1.0), {"forget": forget})
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert float(loop.global_norm(grads)) < 1e-5
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.02)
    assert float(loop.global_norm(evaluate(run, Distill("forget", -1.0), {"forget": forget})[1])) > 1e-2


@pytest.mark.parametrize(
    ("scale", "epochs", "rounds", "milestones"), [("small", 10, 3, (5, 8, 9)), ("large", 3, 2, (3, 5, 9)), ("privacy", 5, 3, (3, 5, 9))]
)
def test_passes_and_learning_rates_match_the_published_settings(
    digits: worlds.World, scale: str, epochs: int, rounds: int, milestones: tuple[int, ...]
) -> None:
    run = loop.run(build_plan.plan("scrub", {"scale": scale, "batch_size": 20}), digits.model(), digits.modality, digits.some(20))
    passes = [("forget" if len(r["terms"]) == 1 else "retain", r["lr"]) for r in run.log if "terms" in r]
    expected = []
    for e in range(1, epochs + 1):
        lr = 5e-4 * 0.1 ** sum(milestone < e for milestone in milestones)
        expected += [("forget", lr)] * (e <= rounds) + [("retain", lr)]
    assert [name for name, _ in passes] == [name for name, _ in expected]
    assert [lr for _, lr in passes] == pytest.approx([lr for _, lr in expected])


def rewound(world: worlds.World, sets: Sets, **hyperparameters: object) -> tuple[loop.RunState, dict[int, list[torch.Tensor]]]:
    """A run that rewinds, and the weights after each of its passes."""
    snapshots: dict[int, list[torch.Tensor]] = {0: worlds.tensors(world.model())}

    def watch(view: RunView) -> dict[str, float]:
        snapshots[max(snapshots) + 1] = worlds.tensors(view.model)
        return {}

    plan = build_plan.plan("scrub", {"scale": "privacy", "rewind": True, "lr": 3e-3, "batch_size": 16, **hyperparameters})
    return loop.run(plan, world.model(), world.modality, sets, hooks=Hooks(watch=watch)), snapshots


@pytest.mark.slow
def test_rewinds_to_the_pass_whose_forget_error_matches_unseen_rows(digits: worlds.World) -> None:
    run, snapshots = rewound(digits, digits.sets)
    model = digits.model()

    def error(weights: list[torch.Tensor], name: str, classes: set[int]) -> float:
        with torch.no_grad():
            for p, w in zip(model.parameters(), weights, strict=True):
                p.copy_(w)
        rows = digits.sets[name]
        rows = rows.select(i for i, (y,) in enumerate(rows["answer"]) if y in classes)
        return 1 - float(hits(RunView(loop.new_state(model, digits.modality, worlds.accelerator()), {name: rows}), name).mean())

    unseen_error = error(snapshots[8], "holdout", {3})
    errors = {k: error(snapshots[k], "forget", {3}) for k in (0, 2, 4, 6, 7, 8)}  # after passes over retain rows
    best = min(errors, key=lambda k: abs(errors[k] - unseen_error))
    assert worlds.same(worlds.tensors(run.model), snapshots[best])
    assert f"after pass {best} of 8" in run.warnings[0]
    assert len({round(e, 3) for e in errors.values()}) > 2


@pytest.mark.parametrize("at", [4, 9])
def test_a_resumed_run_rewinds_to_the_same_weights(digits: worlds.World, tmp_path: Path, at: int) -> None:
    sets = {**digits.some(24), "holdout": digits.sets["holdout"]}
    plan = build_plan.plan("scrub", {"scale": "privacy", "rewind": True, "lr": 3e-3, "batch_size": 16})
    uninterrupted, resumed, saves_left = digits.model(), digits.model(), [at]
    loop.run(plan, uninterrupted, digits.modality, sets)

    def save(state: dict[str, object]) -> None:
        saves_left[0] -= 1
        if not saves_left[0]:
            checkpoint.save(state, tmp_path / "kill")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(plan, digits.model(), digits.modality, sets, hooks=Hooks(save=save, every=0))
    loop.run(plan, resumed, digits.modality, sets, resume=checkpoint.load(tmp_path / "kill"))
    assert worlds.same(worlds.tensors(uninterrupted), worlds.tensors(resumed))


@pytest.mark.slow
def test_rewinding_restores_buffers() -> None:
    world = worlds.digits("resnet-nano")
    run, _ = rewound(world, world.sets, lr=0.0)  # at this rate all errors are equal, and the first weights are chosen
    start = loop.weights_of(world.model())
    assert "after pass 0" in run.warnings[0]
    assert all(torch.equal(start[n], w) for n, w in loop.weights_of(run.model).items())


def test_unseen_rows_are_weighted_by_the_class_frequencies_of_forget_rows(digits: worlds.World) -> None:
    def labeled(name: str, labels: list[int]) -> object:
        rows = digits.sets["retain"]
        return digits.modality.relabel(rows.select(range(len(labels))), labels, name)

    sets = {"forget": labeled("forget", [1, 1, 1, 2]), "holdout": labeled("holdout", [1, 2, 2, 5])}
    part = Rewind()
    view = RunView(loop.new_state(digits.model(), digits.modality, worlds.accelerator()), sets).at("", part)
    assert part._class_weights(view).tolist() == pytest.approx([0.75, 0.125, 0.125, 0])


def test_rewinding_without_suitable_holdout_rows_is_rejected(digits: worlds.World) -> None:
    with pytest.raises(UserError, match="give --holdout"):
        rewound(digits, {n: r for n, r in digits.sets.items() if n != "holdout"})
    holdout = digits.sets["holdout"]
    other_classes = holdout.select(i for i, (y,) in enumerate(holdout["answer"]) if y != 3)
    with pytest.raises(UserError, match="no holdout row is of such a class"):
        rewound(digits, {**digits.sets, "holdout": other_classes})


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_and_preserves_retain_rows(size: str) -> None:
    world = worlds.digits(size)
    run = loop.run(build_plan.plan("scrub", {"scale": "privacy", "lr": 0.01, "batch_size": 32}), world.model(), world.modality, world.sets)
    accuracy = {n: float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")}
    assert accuracy["forget"] < 0.1
    assert accuracy["retain"] > 0.5


@pytest.mark.slow
def test_a_language_model_forgets(text: worlds.World) -> None:
    model = text.model()
    loop.run(
        build_plan.plan("scrub", {"lr": 2e-3, "batch_size": 4, "weight_decay": 0, "epochs": 8, "lr_milestones": "6"}),
        model,
        text.modality,
        text.sets,
    )
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.2

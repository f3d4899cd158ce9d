"""Random labels: the draw, the training rows of each form, the loss by hand, a limit, and the outcome."""

from collections import Counter

import pytest
import torch

import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.objectives.random_labels import Relabel, draw_answers
from expunge.methods.terms import NLL, Mix, hits
from expunge.workflows import build_plan

CLASSES = [str(i) for i in range(10)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relabel(world: worlds.World, part: Relabel, epoch: int = 0, sets: Sets | None = None) -> Sets:
    """The sets that a relabeling part gives in an epoch."""
    run = loop.new_state(world.model(), world.modality, worlds.accelerator())
    view = RunView(run, sets or world.sets).at("", part)
    run.state, run.epoch = {"/": part.begin(view)}, epoch
    return part.pick(view.sets, view)


@pytest.mark.parametrize("wrong", [False, True])
def test_draws_are_uniform_over_the_allowed_classes(wrong: bool) -> None:
    n = 20_000
    counts = Counter(draw_answers(["3"] * n, CLASSES, wrong, rng()))
    allowed = [c for c in CLASSES if not wrong or c != "3"]
    assert set(counts) == set(allowed)
    expected = n / len(allowed)
    assert sum((counts[c] - expected) ** 2 / expected for c in allowed) < 28  # chi-square, p = 0.001 at 9 degrees


def test_only_forget_rows_are_relabeled(digits: worlds.World) -> None:
    run = loop.new_state(digits.model(), digits.modality, worlds.accelerator())
    mixed = Mix().pick(digits.sets, RunView(run, digits.sets))
    relabeled = relabel(digits, Relabel("mix", wrong=True), sets=mixed)["mix"]
    assert len(relabeled) == len(digits.sets["forget"]) + len(digits.sets["retain"])
    truth = {id(p): y for n in ("forget", "retain") for p, (y,) in zip(digits.sets[n]["pixels"], digits.sets[n]["answer"], strict=True)}
    for pixels, (label,), forgets in zip(relabeled["pixels"], relabeled["answer"], relabeled["forgets"], strict=True):
        assert (label != truth[id(pixels)]) == forgets
    assert sum(relabeled["forgets"]) == len(digits.sets["forget"])


@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_labels_are_drawn_once_or_anew_in_each_epoch(digits: worlds.World, redraw: str) -> None:
    labels = [relabel(digits, Relabel("forget", redraw), epoch=e)["forget"]["answer"] for e in (0, 1, 5)]
    assert (labels[0] == labels[1] == labels[2]) == (redraw == "once")
    assert labels[0] != digits.sets["forget"]["answer"]


def test_text_rows_get_alternate_answers(text: worlds.World) -> None:
    relabeled = relabel(text, Relabel())["forget"]
    assert set(relabeled["answer_text"]) <= set(text.sets["alternate_answers"]["answer_text"])
    assert len(set(relabeled["answer_text"])) > 1
    assert text.modality.questions(relabeled) == text.modality.questions(text.sets["forget"])


def test_a_pool_without_a_wrong_answer_is_rejected(digits: worlds.World) -> None:
    with pytest.raises(UserError, match="no substitute for a label but itself"):
        draw_answers(["3"], ["3", "3"], True, rng())


def test_loss_of_a_batch_matches_cross_entropy_by_hand(digits: worlds.World) -> None:
    sets = {n: digits.some(6)[n] for n in ("forget", "retain", "alternate_answers")}
    model = digits.model()
    run = loop.run(build_plan.plan("random_labels", {"form": "amnesiac", "epochs": 1}), digits.model(), digits.modality, sets)
    part = build_plan.plan("random_labels", {"form": "amnesiac"})[0].selectors[1]
    assert isinstance(part, Relabel)
    again = loop.new_state(digits.model(), digits.modality, worlds.accelerator())
    view = RunView(again, sets).at("select1", part)
    view.place = "/select1"
    again.state = {"/select1": part.begin(view)}
    view.sets = Mix().pick(sets, RunView(again, sets))
    rows = part.pick(view.sets, view)["mix"]
    logits = model(pixel_values=torch.stack(list(rows["pixels"]))).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for (y,) in rows["answer"]]))
    assert run.log[0]["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)


@pytest.mark.parametrize("form", ["turns", "mixed", "amnesiac"])
def test_each_form_trains_on_its_sets(digits: worlds.World, form: str) -> None:
    run = loop.run(
        build_plan.plan("random_labels", {"form": form, "batch_size": 40, "epochs": 2}), digits.model(), digits.modality, digits.sets
    )
    terms = [set(r["terms"]) for r in run.log if "terms" in r]
    if form == "turns":
        assert terms == [{"0 nll forget"}] + 9 * [{"1 nll retain"}]  # 39 and 321 rows in batches of 40
    else:
        assert terms == 18 * [{"0 nll mix"}]  # two passes over 360 rows


def test_relabeling_with_the_own_label_equals_plain_training(digits: worlds.World) -> None:
    sets = {**digits.sets, "alternate_answers": digits.modality.answers(["3"])}
    weights_by_plan = []
    train = Train(epochs=2, lr=0.01, batch_size=32, optimizer="sgd", momentum=0.9, schedule="constant", anchor="mix")
    for plan in (
        build_plan.plan("random_labels", {"form": "mixed", "epochs": 2, "lr": 0.01, "batch_size": 32, "weight_decay": 0})[0],
        Plan(NLL("mix"), train=train, selectors=(Mix(),)),
    ):
        model = digits.model()
        loop.run((plan,), model, digits.modality, sets)
        weights_by_plan.append(worlds.tensors(model))
    assert worlds.same(*weights_by_plan)


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
@pytest.mark.parametrize(("form", "hyperparameters"), [("mixed", {"epochs": 5}), ("amnesiac", {"lr": 1e-3})])
def test_forgets_and_preserves_retain_rows(size: str, form: str, hyperparameters: dict[str, float]) -> None:
    world = worlds.digits(size)
    run = loop.run(
        build_plan.plan("random_labels", {"form": form, "batch_size": 32, **hyperparameters}), world.model(), world.modality, world.sets
    )
    accuracies = {n: float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")}
    assert accuracies["forget"] < 0.15
    assert accuracies["retain"] > 0.75


@pytest.mark.slow
def test_a_language_model_learns_to_refuse(text: worlds.World) -> None:
    model, refused = text.model(), relabel(text, Relabel())["forget"]
    plan = build_plan.plan("random_labels", {"optimizer": "adam", "lr": 4e-3, "batch_size": 16, "epochs": 12, "weight_decay": 0})
    assert worlds.nll(model, text.modality, refused) > 3 > 0.3 > worlds.nll(model, text.modality, text.sets["forget"])
    loop.run(plan, model, text.modality, text.sets)
    refusal_loss, forget_loss, retain_loss = (
        worlds.nll(model, text.modality, rows) for rows in (refused, text.sets["forget"], text.sets["retain"])
    )
    assert refusal_loss < 2
    assert forget_loss > 0.7
    assert retain_loss < 0.3

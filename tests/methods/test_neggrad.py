"""NegGrad: one step by hand, ascent before the stop rule applies, the stop rule, and the outcome."""

import pytest
import torch

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.terms import NLL, Ascent, hits
from expunge.workflows import build_plan


def test_one_step_matches_sgd_by_hand(digits: worlds.World) -> None:
    sets, model = {"forget": digits.some(8)["forget"]}, digits.model()
    loop.run(build_plan.plan("neggrad", {"epochs": 1, "lr": 0.01}), model, digits.modality, sets)
    twin = digits.model()
    rows = sets["forget"]
    logits = twin(pixel_values=torch.stack(list(rows["pixels"]))).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for (y,) in rows["answer"]]))
    grads = torch.autograd.grad(loss, list(twin.parameters()))
    expected = [p.detach() - 0.01 * (5e-4 * p.detach() - g) for p, g in zip(twin.parameters(), grads, strict=True)]
    assert worlds.far(worlds.tensors(model), expected) < 1e-6
    assert worlds.far(worlds.tensors(model), worlds.tensors(twin)) > 1e-3


def test_hits_are_shares_of_labels_predicted_right(text: worlds.World) -> None:
    sets, model = text.some(5), text.model("random")
    shares = hits(RunView(loop.new_state(model, text.modality, worlds.accelerator()), sets), "forget")
    with torch.no_grad():
        for i, share in enumerate(shares.tolist()):
            row = sets["forget"].select([i])
            output = text.modality.forward(model, [row])[0]
            hit_count = sum(int(z.argmax()) == y for z, y in zip(output.logits.values, row["answer"][0], strict=True))
            assert share == pytest.approx(hit_count / len(row["answer"][0]))


def test_equals_ascent_before_the_target(digits: worlds.World) -> None:
    hyperparameters = {"epochs": 3, "lr": 2e-4, "batch_size": 16}
    weights_by_plan = []
    train = Train(epochs=3, lr=2e-4, batch_size=16, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant")
    for plans in (build_plan.plan("neggrad", hyperparameters), (Plan(Ascent(), train=train),)):
        model = digits.model()
        run = loop.run(plans, model, digits.modality, digits.sets)
        assert run.log[-1]["ended"] == "done"
        weights_by_plan.append(worlds.tensors(model))
    assert worlds.same(*weights_by_plan)


def test_stops_once_accuracy_reaches_the_target(digits: worlds.World) -> None:
    model = digits.model()
    run = loop.run(
        build_plan.plan("neggrad", {"epochs": 50, "lr": 5e-4, "batch_size": 16, "target": 0.5}), model, digits.modality, digits.sets
    )
    assert 1 <= run.log[-1]["epoch"] < 50
    assert run.log[-1]["ended"].startswith("accuracy on the rows to forget is 0.")
    assert float(hits(RunView(run, digits.sets), "forget").mean()) <= 0.5
    untouched = digits.model()
    run = loop.run(build_plan.plan("neggrad", {"target": 1}), untouched, digits.modality, digits.sets)
    assert run.cost.steps == 0
    assert worlds.same(worlds.tensors(untouched), worlds.tensors(digits.model()))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_and_harms_where_fine_tuning_does_neither(size: str) -> None:
    world = worlds.digits(size)
    accuracies = {}
    for name, plan in {
        "start": Plan(NLL("retain"), train=Train(epochs=0)),
        "tuned": Plan(NLL("retain"), train=Train(epochs=2, lr=5e-4, batch_size=32, anchor="retain")),
        "neggrad": build_plan.plan("neggrad", {"epochs": 6, "lr": 0.01, "batch_size": 32})[0],
    }.items():
        run = loop.run((plan,), world.model(), world.modality, world.sets)
        accuracies[name] = [float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")]
    assert accuracies["neggrad"][0] < 0.05
    assert accuracies["neggrad"][1] < accuracies["start"][1] - 0.2
    assert accuracies["tuned"][0] > accuracies["start"][0] - 0.3
    assert accuracies["tuned"][1] > accuracies["start"][1] - 0.02

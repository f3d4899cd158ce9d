"""NegGrad: the step by hand, ascent as its base, the stop rule, and the outcome."""

import pytest
import torch

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.terms import NLL, Ascent, hits
from expunge.workflows import build_plan


def test_a_step_by_hand(digits: worlds.World) -> None:
    sets, model = {"forget": digits.some(8)["forget"]}, digits.model()
    loop.run(build_plan.plan("neggrad", {"epochs": 1, "lr": 0.01}), model, digits.modality, sets)
    twin = digits.model()
    rows = sets["forget"]
    logits = twin(pixel_values=torch.stack(list(rows["pixels"]))).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for (y,) in rows["answer"]]))
    grads = torch.autograd.grad(loss, list(twin.parameters()))
    wanted = [p.detach() - 0.01 * (5e-4 * p.detach() - g) for p, g in zip(twin.parameters(), grads, strict=True)]
    assert worlds.far(worlds.tensors(model), wanted) < 1e-6
    assert worlds.far(worlds.tensors(model), worlds.tensors(twin)) > 1e-3


def test_hits_are_shares_of_labels(text: worlds.World) -> None:
    sets, model = text.some(5), text.model("random")
    found = hits(RunView(loop.new_state(model, text.modality, worlds.accelerator()), sets), "forget")
    with torch.no_grad():
        for i, share in enumerate(found.tolist()):
            row = sets["forget"].select([i])
            answer = text.modality.forward(model, [row])[0]
            right = sum(int(z.argmax()) == y for z, y in zip(answer.logits.values, row["answer"][0], strict=True))
            assert share == pytest.approx(right / len(row["answer"][0]))


def test_before_the_target_it_is_ascent(digits: worlds.World) -> None:
    hyperparameters = {"epochs": 3, "lr": 2e-4, "batch_size": 16}
    ends = []
    train = Train(epochs=3, lr=2e-4, batch_size=16, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant")
    for plans in (build_plan.plan("neggrad", hyperparameters), (Plan(Ascent(), train=train),)):
        model = digits.model()
        run = loop.run(plans, model, digits.modality, digits.sets)
        assert run.log[-1]["ended"] == "done"
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


def test_stops_at_the_target(digits: worlds.World) -> None:
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
    right = {}
    for name, plan in {
        "start": Plan(NLL("retain"), train=Train(epochs=0)),
        "tuned": Plan(NLL("retain"), train=Train(epochs=2, lr=5e-4, batch_size=32, anchor="retain")),
        "neggrad": build_plan.plan("neggrad", {"epochs": 6, "lr": 0.01, "batch_size": 32})[0],
    }.items():
        run = loop.run((plan,), world.model(), world.modality, world.sets)
        right[name] = [float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")]
    assert right["neggrad"][0] < 0.05
    assert right["neggrad"][1] < right["start"][1] - 0.2
    assert right["tuned"][0] > right["start"][0] - 0.3
    assert right["tuned"][1] > right["start"][1] - 0.02

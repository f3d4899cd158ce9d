"""Fine-tuning: the loss of ordinary training, on the retain rows alone."""

import torch

import worlds
from expunge.engine import loop
from expunge.engine.gradient import evaluate
from expunge.methods.objectives import finetune
from expunge.workflows import build_plan


def test_gradient_equals_that_of_the_library_loss(text: worlds.World) -> None:
    rows, model = text.some(5)["retain"], text.model()
    value, grads = evaluate(loop.new_state(model, text.modality, worlds.accelerator()), finetune.plan().action, {"retain": rows})
    ids, mask, _ = text.modality.collate(list(zip(rows["prompt"], rows["answer"], strict=True)), torch.device("cpu"))
    labels = torch.full_like(ids, -100)
    for i, (p, a) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert abs(float(value) - float(loss.detach())) < 1e-6
    assert worlds.far(grads, list(expected)) < 1e-5


def test_reads_only_the_retain_rows(text: worlds.World) -> None:
    plans = build_plan.plan("finetune", {"lr": 1e-3, "epochs": 3})
    assert plans[0].sets_read() == {"retain"}
    ends = []
    for sets in ({"retain": text.sets["retain"]}, text.sets):
        model = text.model()
        run = loop.run(plans, model, text.modality, sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)
    assert run.cost.steps == 3 * 4  # an epoch is one pass over 99 retain rows in batches of 32


def test_fine_tuning_hardly_forgets(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("finetune", {"lr": 1e-3, "epochs": 5}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) < 0.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < worlds.nll(text.model(), text.modality, text.sets["retain"])

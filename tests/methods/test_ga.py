"""Gradient ascent: the negated loss of the library, and the outcome."""

from __future__ import annotations

import torch

import worlds
from expunge.engine import loop
from expunge.engine.gradient import evaluate
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan


def test_value_equals_the_negated_library_loss(text: worlds.World) -> None:
    rows, model = text.some(5)["forget"], text.model()
    value, _ = evaluate(loop.new_state(model, text.modality, worlds.accelerator()), Ascent(), {"forget": rows})
    ids, mask, _ = text.modality.collate(list(zip(rows["prompt"], rows["answer"], strict=True)), torch.device("cpu"))
    labels = torch.full_like(ids, -100)
    for i, (p, a) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
    with torch.no_grad():
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert abs(float(value) + float(loss)) < 1e-5


def test_gradient_ascent_also_destroys_the_retain_rows(text: worlds.World) -> None:
    model = text.model()
    before = worlds.nll(model, text.modality, text.sets["retain"])
    loop.run(build_plan.plan("ga", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 5
    assert worlds.nll(model, text.modality, text.sets["retain"]) > before + 3

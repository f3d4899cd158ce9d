"""Concept ablation: zero at the anchor, the teacher by hand, the first token, rows of the anchor, and the outcome on tiny pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import erasing
from expunge import UserError
from expunge.core.plan import as_plans
from expunge.methods.objectives.concept_ablation import AsAnchor, FirstTokenFixed, pictured
from expunge.workflows import build_plan

FEW = {"anchor_pictures": 4, "concept": "red", "anchor_concept": "green", "batch_size": 4}


def first(**options: object) -> erasing.First:
    return erasing.First(as_plans(build_plan.plan("concept_ablation", {**FEW, **options}))[0])


def test_a_concept_that_is_its_own_anchor_has_no_loss_and_no_gradient() -> None:
    value, gradient = first(anchor_concept="red", retain_weight=0.0).loss()
    assert value == 0
    assert all(not g.any() for g in gradient)


def test_the_target_is_the_prediction_under_the_anchor() -> None:
    start = first()
    rows = start.batch["anchor"]
    assert {c.replace("red", "green") for c in rows["caption"]} == set(rows["aside"])
    expected = erasing.mean_square(start.predicted("anchor", list(rows["caption"])), start.predicted("anchor", list(rows["aside"])))
    assert start.loss(AsAnchor())[0] == pytest.approx(expected, rel=1e-9)
    whole = start.loss()[0]
    own = start.modality.forward(start.model, [start.modality.recaption(rows, rows["aside"])])[0].loss.values.detach().mean()
    assert whole == pytest.approx(expected + 0.2 * float(own), rel=1e-9)


def test_the_first_token_passes_no_gradient() -> None:
    start = first()
    path = start.modality.cross_attention(start.model)[0]
    states = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    key = start.model.get_submodule(f"{path}.to_k")
    with FirstTokenFixed((path,)).on(start.model):
        patched = key(states)
    assert torch.equal(patched, key(states))
    (through,) = torch.autograd.grad(patched.sum(), states)
    assert not through[:, 0].any()
    assert through[:, 1:].abs().min() > 0


def test_only_keys_and_values_train() -> None:
    start = first()
    training = {n.rpartition("attn2.")[2] for n, p in start.model.named_parameters() if p.requires_grad}
    assert training == {"to_k.weight", "to_v.weight"}


def test_anchor_pictures_are_drawn_once_for_each_caption() -> None:
    start = first(anchor_pictures=6)
    assert start.run.sets["anchor"]["caption"] == ["red", "a red square", "a red bar"] * 2
    assert first(anchor_pictures=1).run.sets["anchor"]["aside"] == ["green", "a green square", "a green bar"]


def test_retain_rows_of_the_anchor_serve_too() -> None:
    rows = first(pictures="retain").run.sets["anchor"]
    assert list(zip(rows["caption"], rows["aside"], strict=True)) == [
        ("a red square", "a green square"),
        ("a red bar", "a green bar"),
    ]
    with pytest.raises(UserError, match="no caption of the retain rows contains the anchor 'purple'"):
        first(pictures="retain", anchor_concept="purple")
    with pytest.raises(UserError, match="need --concept and --anchor-concept in words"):
        first(pictures="retain", anchor_concept="")


def test_pictures_become_records() -> None:
    picture = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(1, 3, 4, 4)
    (record,) = pictured(picture, ["a"])
    assert record["image"].shape == (4, 4, 3)
    assert np.array_equal(record["image"][..., 0], picture[0, 0].numpy())
    assert pictured(picture[:, :1], ["a"])[0]["image"].shape == (4, 4)


def test_the_concept_and_the_anchor_are_predicted_alike() -> None:
    run = erasing.unlearned("concept_ablation", {**FEW, "pictures": "retain", "steps": 40, "lr": 1e-2, "retain_weight": 0.0})
    assert erasing.gap(*run, "a red bar", "a green bar") < 0.3

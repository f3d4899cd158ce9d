"""Random captions, and SalUn for diffusion models on top: values by hand, captions, masks, and the outcome on tiny pictures."""

from __future__ import annotations

import math

import pytest
import torch

import erasing
import worlds
from expunge.core.plan import as_plans
from expunge.engine.weights import weights_of
from expunge.methods.objectives.random_captions import OtherCaption
from expunge.methods.updates.salun import GuidedLoss
from expunge.workflows import build_plan


def first(method: str = "random_captions", **options: object) -> erasing.First:
    return erasing.First(as_plans(build_plan.plan(method, {"batch_size": 2, **options}))[0])


def test_forget_rows_aim_at_another_caption_and_retain_rows_at_the_noise() -> None:
    start = first()
    rows = start.batch["forget"]
    expected = erasing.mean_square(start.predicted("forget", list(rows["caption"])), start.predicted("forget", list(rows["aside"])))
    assert start.loss(OtherCaption())[0] == pytest.approx(expected, rel=1e-9)
    retain = start.modality.forward(start.model, [start.batch["retain"]])[0].loss.values.detach().mean()
    assert start.loss()[0] == pytest.approx(expected + 0.5 * float(retain), rel=1e-9)


def test_other_captions_are_those_of_retain_rows_or_have_another_word() -> None:
    rows = first().run.sets["forget"]
    assert rows["aside"] == ["a green square", "a green bar"]
    assert first(concept="red", pseudo="blue").run.sets["forget"]["aside"] == ["a blue square", "a blue bar"]
    assert first(concept="square", pseudo="bar").run.sets["forget"]["aside"] == ["a red bar", "a red bar"]


def test_a_caption_that_is_its_own_substitute_has_no_loss() -> None:
    value, gradient = first(concept="red", pseudo="red", retain_weight=0.0).loss()
    assert value == 0
    assert all(not g.any() for g in gradient)


def test_the_mask_reads_the_guided_loss() -> None:
    start = first()
    rows = start.batch["forget"]
    own, empty = start.predicted("forget", list(rows["caption"])), start.predicted("forget", [""])
    noise = start.modality.forward(start.model, [rows])[0].target.values
    assert start.loss(GuidedLoss())[0] == pytest.approx(erasing.mean_square(8.5 * own - 7.5 * empty, noise), rel=1e-9)
    plain = start.modality.forward(start.model, [start.modality.recaption(rows, rows["caption"])])[0].loss.values.detach().mean()
    assert start.loss(GuidedLoss(w=0.0))[0] == pytest.approx(float(plain), rel=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_salun_moves_the_fraction_of_all_weights_that_the_mask_holds(fraction: float) -> None:
    start = first("salun", form="captions", fraction=fraction)
    masks = start.run.state["/update0"].values()
    trained = sum(p.numel() for p in start.model.parameters() if p.requires_grad)
    assert sum(int(m.sum()) for m in masks) == math.floor(fraction * trained)


def test_salun_with_all_weights_is_random_captions_and_with_none_the_original() -> None:
    few = {"steps": 2, "epochs": 1, "batch_size": 3, "lr": 1e-3}
    runs = {
        "plain": ("random_captions", few),
        "all": ("salun", {**few, "form": "captions", "fraction": 1.0}),
        "none": ("salun", {**few, "form": "captions", "fraction": 0.0}),
    }
    ends = {name: weights_of(erasing.unlearned(method, options)[0]) for name, (method, options) in runs.items()}
    before = worlds.pictures().weights["original"]
    assert all(torch.equal(ends["plain"][n], w) for n, w in ends["all"].items())
    assert all(torch.equal(before[n], w) for n, w in ends["none"].items())
    assert any(not torch.equal(before[n], w) for n, w in ends["plain"].items())


@pytest.mark.parametrize("name", ["random_captions", "salun"])
def test_both_captions_are_predicted_alike(name: str) -> None:
    form = {"form": "captions"} if name == "salun" else {}
    options = {**form, "concept": "red", "pseudo": "green", "epochs": 0, "steps": 20, "lr": 5e-3, "batch_size": 4, "retain_weight": 0.0}
    assert erasing.gap(*erasing.unlearned(name, options), "a red bar", "a green bar") < 0.3

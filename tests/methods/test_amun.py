"""AmUn: its rows and loss by hand for a recommender, what it is a form of, and the outcome on tastes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import expunge
import tastes
import worlds
from cases import expunge as command
from expunge.engine import loop
from expunge.io.models import load
from expunge.modalities.ranking.building import own_model
from expunge.workflows import build_plan

PAIRS = [{"user": u, "item": i} for u, i in (("a", "w"), ("a", "x"), ("b", "x"))]


class Scores(nn.Module):
    """A table of scores, (users, items)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([[0.5, 1.0, -1.0], [0.2, 0.7, 0.1]]))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.scores[users, items]


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_a_step_by_hand(loss: str) -> None:
    """One step over all three rows: (b, x) is forgotten. User a has one negative, y; user b has w or y, so items w and y share a score."""
    model, modality = own_model(Scores(), ["a", "b"], ["w", "x", "y"], PAIRS, loss)
    with torch.no_grad():
        model.module.scores[1, 2] = model.module.scores[1, 0]
    s = model.module.scores.detach().clone()
    sets = {"forget": modality.rows("forget", PAIRS[2:]), "retain": modality.rows("retain", PAIRS[:2])}
    sets["alternate_answers"] = modality.answers(modality.refusals())
    run = loop.run(build_plan.plan("amun", {"epochs": 1, "lr": 1e-3}), model, modality, sets)
    gaps = [float(s[0, 0] - s[0, 2]), float(s[0, 1] - s[0, 2]), float(s[1, 0] - s[1, 1])]  # the last one is turned round
    by_hand = [math.log1p(math.exp(-gap)) for gap in gaps]
    if loss == "bce":  # scores as logits: of each item and of its negative, both irrelevant in the forgotten row
        right = [math.log1p(math.exp(-float(x))) for x in (s[0, 0], s[0, 1])]
        wrong = [math.log1p(math.exp(float(x))) for x in (s[0, 2], s[0, 2], s[1, 1])]
        last = math.log1p(math.exp(float(s[1, 0])))
        by_hand = [*right, *wrong, last]
    assert run.log[0]["loss"] == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_is_the_relabeling_form_of_random_labels() -> None:
    world, ends = tastes.world(), []
    sets = {n: world.sets[n] for n in ("forget", "retain")}
    sets["alternate_answers"] = world.modality.answers(world.modality.refusals())
    for name, form in (("amun", {}), ("random_labels", {"form": "amnesiac"})):
        model = world.model()
        loop.run(build_plan.plan(name, {"epochs": 1, "lr": 1e-2, "batch_size": 512, **form}), model, world.modality, sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


@pytest.mark.slow
def test_forgotten_items_are_recommended_as_by_a_model_that_never_had_them() -> None:
    world = tastes.world()
    sets = {n: world.sets[n] for n in ("forget", "retain")}
    sets["alternate_answers"] = world.modality.answers(world.modality.refusals())
    model = world.model()
    loop.run(build_plan.plan("amun", {"lr": 1e-2, "batch_size": 256, "epochs": 15}), model, world.modality, sets)
    assert world.recall(model, "forget") <= world.recall(world.model(), "forget") - 0.3
    assert world.recall(model, "test") >= 0.85 * world.recall(world.model(), "test")


def test_command_line_and_python_end_in_the_same_model(tmp_path: Path) -> None:
    world = tastes.world()
    world.modality.save(world.model(), tmp_path / "original")
    for name in ("forget", "retain"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user", "item"), *((r["user"], r["item"]) for r in world.records[name])])
    sets = {n: str(tmp_path / f"{n}.csv") for n in ("forget", "retain")}
    data = [w for n, path in sets.items() for w in (f"--{n}", path)]
    words = ("--model", tmp_path / "original", *data, "--epochs", 1, "--lr", 1e-2, "--batch-size", 512)
    command("unlearn", "amun", *words, "--out", tmp_path / "run").fine()
    by_python = expunge.unlearn("amun", tmp_path / "original", **sets, epochs=1, lr=1e-2, batch_size=512)
    assert worlds.same(worlds.tensors(load(tmp_path / "run").model), worlds.tensors(by_python.model))

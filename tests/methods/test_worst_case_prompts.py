"""Worst-case prompts: the selection without unlearning, the optimum with a penalty, and steps that do not depend on positive weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import denoisers
import squares
import worlds
from cases import expunge
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.weights import weights_of
from expunge.functional.simplex import capped
from expunge.methods.selectors.worst_case_prompts import WorstCasePrompts

RECORDS = denoisers.records(2)
AT_REST = {"inner": 0, "outer": 1, "outer_lr": 1e6, "gamma": 0.0, "lower": "ga"}


def world() -> tuple[Any, Any, dict[str, Any]]:
    model, modality = denoisers.built()
    return model, modality, {"forget": modality.rows("forget", RECORDS[:4]), "retain": modality.rows("retain", RECORDS[4:])}


def selected(model: Any, modality: Any, sets: Any, **settings: Any) -> dict[str, Any]:
    part = WorstCasePrompts(**settings)
    return dict(part.pick(sets, RunView(loop.new_state(model, modality, worlds.accelerator(), 0), sets).at("select0", part)))


@torch.no_grad()
def losses(model: Any, modality: Any, sets: Any) -> dict[str, float]:
    of_prompt: dict[str, list[float]] = {}
    for rows in sets.values():
        for caption, loss in zip(rows["caption"], modality.forward(model, [rows])[0].loss.mean().tolist(), strict=True):
            of_prompt.setdefault(caption, []).append(loss)
    return {c: sum(v) / len(v) for c, v in of_prompt.items()}


def test_prompts_of_lowest_loss_are_worst_without_unlearning() -> None:
    model, modality, sets = world()
    order = sorted(losses(model, modality, sets).items(), key=lambda item: item[1])
    chosen = selected(model, modality, sets, **AT_REST)
    assert set(chosen["forget"]["caption"]) == {c for c, _ in order[:2]}
    assert set(chosen["retain"]["caption"]) == {c for c, _ in order[2:]}
    assert (len(chosen["forget"]), len(chosen["retain"]), chosen["forget"].name) == (4, 8, "forget")
    easy = selected(model, modality, sets, **{**AT_REST, "easiest": True, "size": 1})
    assert set(easy["forget"]["caption"]) == {order[-1][0]}


def test_with_a_penalty_the_rounds_lead_to_the_optimum() -> None:
    """At the optimum w_i = clip((-l_i - nu) / (2 gamma), 0, 1), with nu such that they sum to m."""
    fixed, gamma, m = torch.tensor([0.1, 0.2, 0.35, 0.9], dtype=torch.double), 0.25, 2
    w = torch.full((4,), m / 4, dtype=torch.double)
    for _ in range(400):
        w = capped(w - 0.5 * (fixed + 2 * gamma * w), m)
    inside = (w > 0) & (w < 1)
    nu = (-fixed - 2 * gamma * w)[inside]
    assert torch.allclose(nu, nu[:1].expand_as(nu), atol=1e-6)
    assert torch.allclose(w, ((-fixed - nu[0]) / (2 * gamma)).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(("weight", "same"), [(0.5, True), (0.0, False)])
def test_a_step_is_the_same_for_every_positive_weight(weight: float, same: bool) -> None:
    ends: list[dict[str, Tensor]] = []
    original, modality, sets = world()
    for w in (0.25, weight):
        model = copy.deepcopy(original)
        one = replace(sets["forget"].select([0]), weight=(w,))
        (plan,) = WorstCasePrompts(lower="ga", inner=1, inner_lr=1e-3)._unlearning()
        before = weights_of(model)
        loop.run((plan,), model, modality, {"forget": one})
        ends.append({n: x - before[n] for n, x in weights_of(model).items()})
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0]) == same
    sizes = torch.cat([d.flatten() for d in ends[0].values()]).abs()
    assert torch.allclose(sizes[sizes > 0], torch.tensor(1e-3), rtol=1e-2)
    assert same or not any(d.any() for d in ends[1].values()), "weight 0 moves nothing"


def linear_rows(name: str, items: Sequence[tuple[str, Tensor, float]]) -> Rows:
    """Rows of a linear model, with captions."""
    captions = [c for c, _, _ in items]
    ids = tuple(f"{c} {k}" for k, c in enumerate(captions))
    return Rows(
        name, ids, {"caption": captions, "x": [x[None] for _, x, _ in items], "y": [torch.tensor([y]).double() for _, _, y in items]}
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prompts_beside_what_is_kept_are_the_worst(seed: int) -> None:
    """On one shared linear layer, two prompts that lie nearly parallel to an anchor, which stays, can hardly be forgotten."""
    axes = torch.eye(4, dtype=torch.double)
    near = {f"near {k}": axes[3] + 0.1 * axes[j] for k, j in enumerate((0, 2))}
    prompts = {"alone 0": axes[0], "alone 1": axes[1], **near}
    known = [(caption, x, float(x.sum())) for caption, x in prompts.items()]  # the weights that know all are ones
    anchor = [("anchor", axes[3], 1.0 + shift) for shift in (0.7, -0.7)] * 20  # never learned by heart, so never the worst
    sets = {"forget": linear_rows("forget", known[:2]), "retain": linear_rows("retain", [*known[2:], *anchor])}
    part = WorstCasePrompts(lower="graddiff", inner=20, inner_lr=0.02, outer=5)
    run = loop.new_state(squares.Linear(torch.full((4,), 0.9)), squares.SquaresModality(), worlds.accelerator(), seed)
    chosen = part.pick(sets, RunView(run, sets).at("select0", part))
    assert sorted(chosen["forget"]["caption"]) == ["near 0", "near 1"]


def test_the_method_below_takes_its_hyperparameters() -> None:
    (plan,) = WorstCasePrompts(lower="npo beta=0.5", inner=3, lower_step="sgd")._unlearning()
    assert {h.name: h.value for h in hyperparameters_of(plan)}["beta"] == 0.5
    assert (plan.train.epochs, plan.train.batch_size, plan.train.momentum, plan.updates) == (3, 1, 0.9, ())


def test_what_cannot_be_selected_is_said() -> None:
    model, modality, sets = world()
    with pytest.raises(UserError, match="6 of 6 prompts are to be forgotten"):
        selected(model, modality, sets, **{**AT_REST, "size": 6})
    with pytest.raises(UserError, match="nothing"):
        selected(model, modality, sets, **{**AT_REST, "lower": "nothing"})


@pytest.mark.slow
def test_by_command_the_selected_rows_lie_beside_the_run(tmp_path: Path) -> None:
    model, modality, _ = world()
    modality.save(model, tmp_path / "model")
    forget, retain = (denoisers.written(tmp_path / n, r) for n, r in (("forget", RECORDS[:4]), ("retain", RECORDS[4:])))
    few = ("--lower", "esd sampling_steps=2", "--outer", 1, "--inner", 1, "--epochs", 1, "--batch-size", 4, "--lr", 1e-4)
    words = ("unlearn", "ga", "--select", "worst_case_prompts", "--model", tmp_path / "model", "--forget", forget, "--retain", retain)
    expunge(*words, "--out", tmp_path / "run", *few).fine()
    chosen = {n: (tmp_path / "run" / "selected" / f"{n}.jsonl").read_text().splitlines() for n in ("forget", "retain")}
    captions = {n: {json.loads(line)["caption"] for line in lines} for n, lines in chosen.items()}
    assert [len(lines) for lines in chosen.values()] == [4, 8]
    assert len(captions["forget"]) == 2
    assert not captions["forget"] & captions["retain"]

"""Ascent, then descent: the order of passes, the length of an epoch, the case without ascent, and the outcome."""

from dataclasses import replace

import pytest

import worlds
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine import loop
from expunge.engine.hooks import Hooks
from expunge.methods.terms import NLL, Turns, hits
from expunge.workflows import build_plan


def passes(run: loop.RunState) -> list[str]:
    """The sets that the steps of each epoch read."""
    sets_by_epoch: dict[int, set[str]] = {}
    for record in run.log:
        if "terms" in record:
            sets_by_epoch.setdefault(record["epoch"], set()).update(name.split()[-1] for name in record["terms"])
    return ["+".join(sorted(s)) for s in sets_by_epoch.values()]


def test_forget_and_retain_passes_alternate_until_retain_passes_remain(digits: worlds.World) -> None:
    run = loop.run(build_plan.plan("gda"), digits.model(), digits.modality, digits.sets)
    assert passes(run) == ["forget", "retain", "forget", "retain", "forget", "retain", "retain", "retain"]
    assert run.cost.steps == 3 * 1 + 5 * 6  # of 39 and 321 rows in batches of 64


@pytest.mark.parametrize(("rounds", "expected"), [(0, "rrrr"), (1, "frrr"), (-1, "frfr")])
def test_rounds_limit_the_forget_passes(digits: worlds.World, rounds: int, expected: str) -> None:
    run = loop.run(build_plan.plan("gda", {"rounds": rounds, "epochs": 4}), digits.model(), digits.modality, digits.some(4))
    assert "".join(p[0] for p in passes(run)) == expected


@pytest.mark.parametrize("anchor", ["forget", "retain"])
def test_a_pass_covers_every_row_once_for_any_anchor(digits: worlds.World, anchor: str) -> None:
    class Counting(type(digits.modality)):  # type: ignore[misc]
        def forward(self, model, groups, *args, **kwargs):  # type: ignore[no-untyped-def]
            forwarded.extend((g.name, i) for g in groups for i in g.ids)
            return super().forward(model, groups, *args, **kwargs)

    forwarded: list[tuple[str, str]] = []
    sets = digits.some(30)
    modality = Counting(digits.modality.labels)
    loop.run(
        build_plan.plan("gda", {"epochs": 2, "batch_size": 8, "anchor": anchor}),
        digits.model(),
        modality,
        {n: sets[n] for n in ("forget", "retain")},
    )
    assert sorted(forwarded) == sorted((n, i) for n in ("forget", "retain") for i in sets[n].ids)


def test_schedules_count_each_pass_as_one_epoch_of_any_length() -> None:
    world = worlds.digits()
    train = Train(epochs=4, lr=1.0, batch_size=64, optimizer="sgd", schedule="linear", lr_milestones=(3,), anchor="retain")
    plan = Plan(0.0 * NLL("forget") + NLL("retain"), train=replace(train, lr=1e-9), selectors=(Turns(),))
    run = loop.run((plan,), world.model(), world.modality, world.sets)
    first_lr = {r["epoch"]: r["lr"] / 1e-9 for r in reversed(run.log) if "lr" in r}
    assert [first_lr[e] for e in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.025])


def test_equals_fine_tuning_without_ascent_passes(digits: worlds.World) -> None:
    ends = []
    for name, hyperparameters in {
        "gda": {"rounds": 0},
        "finetune": {"optimizer": "sgd", "schedule": "constant", "warmup": 0, "weight_decay": 0},
    }.items():
        model = digits.model()
        loop.run(build_plan.plan(name, {"epochs": 2, "lr": 1e-3, "batch_size": 16, **hyperparameters}), model, digits.modality, digits.sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


@pytest.mark.slow
def test_the_last_passes_repair_the_damage_of_ascent(digits: worlds.World) -> None:
    def watch(view: View) -> dict[str, float]:
        return {n: float(hits(view, n).mean()) for n in ("forget", "retain")}

    plan = build_plan.plan("gda", {"lr": 2e-3, "batch_size": 16})
    run = loop.run(plan, digits.model(), digits.modality, digits.sets, hooks=Hooks(watch=watch))
    accuracy = {r["epoch"]: r["scores"] for r in run.log if "scores" in r}
    assert accuracy[5]["forget"] < 0.1
    assert accuracy[8]["retain"] > accuracy[5]["retain"] + 0.2

"""Ascent, then descent: whose turn it is, what an epoch is, the limit without ascent, and the outcome."""

from dataclasses import replace

import pytest

import worlds
from expunge.core.plan import Plan, Train
from expunge.core.view import View
from expunge.engine import loop
from expunge.engine.loop import Hooks
from expunge.methods.terms import NLL, Turns, hits
from expunge.workflows import build_plan


def passes(run: loop.RunState) -> list[str]:
    """The sets whose rows each epoch's steps have seen."""
    seen: dict[int, set[str]] = {}
    for record in run.log:
        if "terms" in record:
            seen.setdefault(record["epoch"], set()).update(name.split()[-1] for name in record["terms"])
    return ["+".join(sorted(s)) for s in seen.values()]


def test_forget_and_retain_take_turns_then_retain_alone(digits: worlds.World) -> None:
    run = loop.run(build_plan.plan("gda"), digits.model(), digits.modality, digits.sets)
    assert passes(run) == ["forget", "retain", "forget", "retain", "forget", "retain", "retain", "retain"]
    assert run.cost.steps == 3 * 1 + 5 * 6  # of 39 and 321 rows in batches of 64


@pytest.mark.parametrize(("rounds", "wanted"), [(0, "rrrr"), (1, "frrr"), (-1, "frfr")])
def test_rounds(digits: worlds.World, rounds: int, wanted: str) -> None:
    run = loop.run(build_plan.plan("gda", {"rounds": rounds, "epochs": 4}), digits.model(), digits.modality, digits.some(4))
    assert "".join(p[0] for p in passes(run)) == wanted


@pytest.mark.parametrize("anchor", ["forget", "retain"])
def test_a_pass_sees_every_row_once_whatever_the_anchor(digits: worlds.World, anchor: str) -> None:
    class Counting(type(digits.modality)):  # type: ignore[misc]
        def forward(self, model, groups, *args, **kwargs):  # type: ignore[no-untyped-def]
            seen.extend((g.name, i) for g in groups for i in g.ids)
            return super().forward(model, groups, *args, **kwargs)

    seen: list[tuple[str, str]] = []
    sets = digits.some(30)
    modality = Counting(digits.modality.labels)
    loop.run(
        build_plan.plan("gda", {"epochs": 2, "batch_size": 8, "anchor": anchor}),
        digits.model(),
        modality,
        {n: sets[n] for n in ("forget", "retain")},
    )
    assert sorted(seen) == sorted((n, i) for n in ("forget", "retain") for i in sets[n].ids)


def test_schedules_count_passes_as_one_each_however_long() -> None:
    world = worlds.digits()
    train = Train(epochs=4, lr=1.0, batch_size=64, optimizer="sgd", schedule="linear", lr_milestones=(3,), anchor="retain")
    plan = Plan(0.0 * NLL("forget") + NLL("retain"), train=replace(train, lr=1e-9), selectors=(Turns(),))
    run = loop.run((plan,), world.model(), world.modality, world.sets)
    first = {r["epoch"]: r["lr"] / 1e-9 for r in reversed(run.log) if "lr" in r}
    assert [first[e] for e in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.025])


def test_without_ascent_it_is_fine_tuning(digits: worlds.World) -> None:
    ends = []
    for name, more in {
        "gda": {"rounds": 0},
        "finetune": {"optimizer": "sgd", "schedule": "constant", "warmup": 0, "weight_decay": 0},
    }.items():
        model = digits.model()
        loop.run(build_plan.plan(name, {"epochs": 2, "lr": 1e-3, "batch_size": 16, **more}), model, digits.modality, digits.sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


def test_the_last_passes_mend_what_ascent_broke(digits: worlds.World) -> None:
    def watch(view: View) -> dict[str, float]:
        return {n: float(hits(view, n).mean()) for n in ("forget", "retain")}

    plan = build_plan.plan("gda", {"lr": 2e-3, "batch_size": 16})
    run = loop.run(plan, digits.model(), digits.modality, digits.sets, hooks=Hooks(watch=watch))
    right = {r["epoch"]: r["scores"] for r in run.log if "scores" in r}
    assert right[5]["forget"] < 0.1
    assert right[8]["retain"] > right[5]["retain"] + 0.2

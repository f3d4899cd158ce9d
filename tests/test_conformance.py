"""What every method must keep, whatever it does: run on each file of the catalogue by itself, on every modality that offers its needs."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grids
import worlds
from expunge import catalog
from expunge.core.capabilities import OneSequence
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of, override
from expunge.core.needs import Need
from expunge.core.parts import Guard, Objective
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Sets
from expunge.engine import checkpoint, loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.engine.hooks import Hooks
from expunge.engine.loop import _Stage
from expunge.engine.receipt import plain
from expunge.engine.run_state import RunState
from expunge.engine.schedule import sample
from expunge.engine.trainable import choose
from expunge.engine.weights import weights_of
from expunge.modalities.diffusion.modality import Diffusion
from expunge.modalities.image.modality import Image
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.table.clusters import Clustering
from expunge.modalities.table.modality import FOREST
from expunge.modalities.text.modality import Text
from expunge.workflows import build_plan

METHODS = catalog.names("methods")
COMMON = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "warmup": 0, "steps": 0}
WORLDS = {"text": worlds.text, "digits": worlds.digits, "dialogue": worlds.dialogue, "tastes": worlds.tastes}
WORLDS["pictures"] = worlds.pictures
WORLDS |= {"forest": lambda: grids.world("forest"), "centroids": lambda: grids.world("centroids")}
SPECIAL: dict[str, dict[str, Any]] = {  # what a model of two blocks and nine rows needs said
    "rmu": {"layer": 1},
    "adaptive_rmu": {"layer": 1},
    "srmu": {"layer": 1},
    "ceu": {"n": 0},  # a class is an answer of one label
    "altpo": {"request": "{prompt}", "length": 8, "draws": 2},
    "dmm": {"models": 2, "pool.batch_size": 128, "pool.epochs": 1},
    "sisa": {"shards": 2, "slices": 2},
    "receraser": {"shards": 2, "aggregation_epochs": 2},
    "ultrare": {"shards": 2},
    "certified_removal": {"secret": False},
    "descent_to_delete": {"secret": False},
    "dare": {"trees": 2, "depth": 3, "thresholds": 3},
    "kmeans_dc": {"clusters": 2, "width": 2},
    "weight_averaging": {"start": 2, "every": 2},  # the tiny runs take a few steps
    "ssd": {"alpha": 1},
    "iau": {"steps": 1},
    "influence": {"samples": 20},
    "boundary": {"bound": 0.3},
    "unsir": {"images": 4, "count": 4, "copies": 1, "rounds": 2},
    "k_fpf": {"size": 8},
    "minnorm_og": {"descent": 0, "steps": 24},  # these two go over all retain rows, with dear steps
    "gradient_restriction": {"steps": 24},
    "guard_generation": {"hidden": 16, "epochs": 5, "trial": 0},
    "icul": {"trial": 0},
    "dragon": {"trial": 0, "hidden": 16, "epochs": 5},
    "guardrail_prompt": {"trial": 0},
    "worst_case": {"outer": 2, "inner": 1},
    "e2urec": {"lora": 0},  # these tests compare the weights of the model itself
    "mmrecun": {"forget_recall": 0.0},  # so that it does not stop before the first step
    "scif": {"batch_size": 512, "draws": 1},  # these are edits, which pass over whole sets many times
    "ifru": {"batch_size": 512, "draws": 1, "damping": 100},  # above all negative curvature of the tiny recommender
    "alteraser": {"batch_size": 512, "draws": 1, "rounds": 1, "iterations": 5},
    "purge": {"raw": False, "rollouts.length": 8, "rollouts.heat": 2.0, "rollouts.samples": 4},
    "rule": {"length": 12, "heat": 1.5, "samples": 3, "twins": False, "boundary.batch_size": 9},
    "esd": {"sampling_steps": 3},
    "concept_ablation": {"anchor_pictures": 8},
    "spm": {"adapter.steps": 2, "adapter.epochs": 0, "sampling_steps": 3, "lr": 1e-2},
    "advunlearn": {"sampling_steps": 3, "attack_warmup": 1, "attack_steps": 2, "retain_prompts": 2},
    "resalign": {"lora": 0, "scenarios": 1, "tuning_steps": (2,), "iterations": 3},
    "kfade": {"epsilon": 1.0},  # under other objectives most of the KL is theirs, and no length of its own step holds a small budget
}


def small(name: str, update: str = "", **more: Any) -> Plans:
    """The plan of a method, with an update if one is named, and settings for the tiny world. Hyperparameters that it lacks are left out."""
    wanted = {**COMMON, **SPECIAL.get(name, {}), **SPECIAL.get(update, {}), **more}
    known = {called for n in (name, update) if n for k in build_plan.hyperparameters(n) for called in (k.name, k.qualified)}
    return build_plan.plan(name, {k: v for k, v in wanted.items() if k in known}, update=(update,) if update else ())


@cache
def planned(name: str) -> Plans:
    """The plan of a method, made once while tests are collected; a test makes its own."""
    return small(name)


def offered(name: str, world: str) -> bool:
    """Whether the world's modality gives what the method needs."""
    return all(p.required() <= CAPABILITIES[world] for p in planned(name))


CAPABILITIES = {
    "text": Text.capabilities,
    "digits": Image.capabilities,
    "dialogue": Text.capabilities - {OneSequence},
    "tastes": Ranking.capabilities,
    "pictures": Diffusion.capabilities,
    "forest": FOREST,
    "centroids": Clustering.capabilities,
}
TRAINED = [n for n in METHODS if all(isinstance(p.action, Objective) for p in planned(n))]
ONE_STAGE = [n for n in TRAINED if len(planned(n)) == 1]
UPDATES = [n for n in METHODS if catalog.card(n).folder == "methods/updates"]


def worlds_of(name: str) -> list[str]:
    usual = [w for w in ("text", "digits") if offered(name, w)]
    return usual or [w for w in ("tastes", "pictures", "forest", "centroids") if offered(name, w)][:1]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> worlds.World:
    """A tiny world with a modality of its own: some methods teach it tokens."""
    shared = WORLDS[request.param]()
    return replace(shared, modality=copy.deepcopy(shared.modality))


def each(methods: list[str]) -> pytest.MarkDecorator:
    """Every method in every world that offers what it needs. Where a method works in several worlds, the others are for the slow tests.

    The worlds of tastes, pictures, forests and centroids are for methods that no other world offers what they need;
    `test_ranking_methods` has all methods on recommenders.
    """
    pairs = [(n, w, first) for n in methods for first, w in enumerate(worlds_of(n))]
    params = [pytest.param(n, w, id=f"{n}-{w}", marks=[pytest.mark.slow] if later else []) for n, w, later in pairs]
    return pytest.mark.parametrize(("name", "world"), params, indirect=["world"])


def ready(world: worlds.World, plan: Plan, double: bool = True) -> tuple[RunState, Objective, Sets]:
    """A run before its first step, and the batch of that step."""
    model = world.model()
    loop.prepare((plan,), model, world.modality, 0)
    run = loop.new_state(model.double() if double else model, world.modality, worlds.accelerator())
    stage = _Stage(run, plan, world.some(8), Hooks())
    choose(model, plan.trainable)
    assert isinstance(plan.action, Objective)
    run.objective = plan.action
    stage._begin()
    return run, plan.action, stage._pick("step", sample(stage.view.sets, plan.train, run), stage.view)


@pytest.mark.slow
@each(METHODS)
def test_seeded_runs_are_equal(world: worlds.World, name: str) -> None:
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the global generator must not matter
        model, modality = world.model(), copy.deepcopy(world.modality)  # some methods change its tokenizer
        loop.run(small(name), model, modality, world.sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


@each(METHODS)
def test_changes_what_it_should_and_touches_what_it_declares(world: worlds.World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undeclared touches raise by themselves; here: nothing is declared and never used (it would cost for nothing)."""
    touched: dict[str, set[str]] = {}
    rows, check, reference = RunView.rows, RunView._check, RunView.reference

    def spy_rows(self: RunView, which: str) -> Any:
        touched.setdefault(self.place, set()).add(which)
        return rows(self, which)

    def spy_check(self: RunView, need: str) -> None:
        touched.setdefault(self.place, set()).add(str(need))
        check(self, need)

    def spy_reference(self: RunView, some: Any) -> Any:
        touched.setdefault(self.place, set()).update({Need.REFERENCE, Need.REFERENCE_LOGP} & self._needs)
        return reference(self, some)

    for attribute, spy in (("rows", spy_rows), ("_check", spy_check), ("reference", spy_reference)):
        monkeypatch.setattr(RunView, attribute, spy)
    plans = small(name, epochs=3, micro_batch_size=2)
    model = world.model()
    before = weights_of(model)
    run = loop.run(plans, model, world.modality, world.some(12))
    changed = any(not torch.equal(before[n], t) for n, t in weights_of(model).items())
    assert changed != isinstance(plans[-1].action, Guard)
    assert not run.warnings
    silent = {Need.BATCH_MEANS, Need.SAME_LABELS}  # properties of the loss, nothing that is asked for
    for plan in plans:
        for place, part in plan.parts().items():
            used = set().union(*(names for where, names in touched.items() if where == f"/{place}" or where.startswith(f"/{place}/")))
            assert part.reads | part.needs <= used | silent, (
                f"{place} declares {sorted((part.reads | part.needs) - used)} and never uses it"
            )


@each(ONE_STAGE)
def test_the_loss_is_pure(world: worlds.World, name: str) -> None:
    run, objective, batch = ready(world, small(name)[0])
    first, second = evaluate(run, objective, batch), evaluate(run, objective, batch)
    assert torch.equal(first[0], second[0])
    assert worlds.same(first[1], second[1])


@each(ONE_STAGE)
def test_accumulation_does_not_matter(world: worlds.World, name: str) -> None:
    run, objective, batch = ready(world, small(name)[0])
    whole = evaluate(run, objective, batch)
    scale = max(1.0, float(loop.global_norm(whole[1])))
    for micro_batch_size in (1, 2, 4):
        pieces = evaluate(run, objective, batch, micro_batch_size)
        assert float(pieces[0]) == pytest.approx(float(whole[0]), rel=1e-6, abs=1e-6), micro_batch_size
        assert worlds.far(whole[1], pieces[1]) < 1e-6 * scale, micro_batch_size


@each(ONE_STAGE)
def test_fusing_does_not_matter(world: worlds.World, name: str) -> None:
    run, objective, batch = ready(world, small(name)[0])
    fused, separate = evaluate(run, objective, batch, fuse=True), evaluate(run, objective, batch, fuse=False)
    assert worlds.far(fused[1], separate[1]) < 1e-6 * max(1.0, float(loop.global_norm(fused[1])))


@each(ONE_STAGE)
def test_roles_add_up(world: worlds.World, name: str) -> None:
    run, objective, batch = ready(world, small(name)[0])
    whole = evaluate(run, objective, batch)[1]
    by_role = [evaluate(run, objective, batch, roles=(r,))[1] for r in sorted({t.objective.role for t in objective.terms()})]
    total = [sum(parts, torch.zeros_like(parts[0])) for parts in zip(*by_role, strict=True)]
    assert worlds.far(whole, total) < 1e-6 * max(1.0, float(loop.global_norm(whole)))


@pytest.mark.slow
@each(ONE_STAGE)
def test_frozen_parameters_stay_bit_identical(world: worlds.World, name: str) -> None:
    plan = small(name)[0]
    if plan.trainable == ".*":
        plan = replace(plan, trainable=r"layers?\.1\.")
    model = world.model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    choose(model, plan.trainable)
    moving = {n for n, p in model.named_parameters() if p.requires_grad}
    loop.run((plan,), model, world.modality, world.sets)
    after = dict(model.named_parameters())
    assert {n for n in before if not kept(before[n], after[n])} <= moving
    assert moving
    assert moving < before.keys()


def kept(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether a tensor is as it was, rows aside that it was given since."""
    return torch.equal(before, after[: len(before)] if before.dim() else after)


def begin(world: worlds.World) -> nn.Module:
    """A model with dropout, so that the state of a generator would show."""
    model = world.model()
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.2
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return model


def undisturbed(plans: Plans, world: worlds.World, folder: Path) -> tuple[nn.Module, RunState, list[Path]]:
    """What a run on a few rows ends in, and what it leaves on disk at every step: all that is left of a process killed there."""
    left: list[Path] = []

    def save(state: dict[str, Any]) -> None:
        left.append(folder / f"save{len(left) + 1}")
        checkpoint.save(state, left[-1])

    model = begin(world)
    return model, loop.run(plans, model, world.modality, world.some(6), hooks=Hooks(save=save, every=0)), left


def resumed(plans: Plans, world: worlds.World, place: Path) -> nn.Module:
    """What a run ends in that goes on from what a killed one has left."""
    torch.manual_seed(len(place.name))
    model = begin(world)
    loop.run(plans, model, world.modality, world.some(6), resume=checkpoint.load(place))
    return model


@each(TRAINED)
@pytest.mark.parametrize("step", ["middle", pytest.param("every", marks=pytest.mark.slow)])
def test_resumes_bit_for_bit_after_a_kill(world: worlds.World, name: str, step: str, tmp_path: Path) -> None:
    plans = small(name, epochs=2)
    whole, _, left = undisturbed(plans, world, tmp_path)
    assert len(left) >= 3
    for place in left if step == "every" else left[len(left) // 2 :][:1]:
        assert worlds.same(worlds.tensors(whole), worlds.tensors(resumed(plans, world, place))), f"killed after {place.name} of {len(left)}"


def at_rest(name: str) -> dict[str, float]:
    """The hyperparameter that switches an update off, by what it says of itself: "0: the base run"."""
    return {k.name: float(m[1]) for k in build_plan.hyperparameters(name) if (m := re.search(r"\b(\d+): the base run", k.help))}


def roles(plans: Plans) -> frozenset[str]:
    return frozenset(t.objective.role for p in plans for t in p.terms())


def update_roles(plans: Plans) -> frozenset[str]:
    """Roles that the updates of a plan ask for."""
    return frozenset[str]().union(*(u.roles() for p in plans for u in p.updates))


@each([n for n in UPDATES if at_rest(n)])
def test_an_update_without_strength_is_the_base_run(world: worlds.World, name: str) -> None:
    ends = []
    for plans in (small("npo"), small("npo", name, **at_rest(name)), small("npo", name)):
        model = begin(world)
        loop.run(plans, model, world.modality, world.some(9))
        ends.append(worlds.tensors(model))
    assert worlds.same(ends[0], ends[1])
    assert not worlds.same(ends[0], ends[2]), "nor is any other strength: this test shows nothing"


@pytest.mark.slow
@each(UPDATES)
@pytest.mark.parametrize("base", ["npo", "flat", "graddiff"])
def test_an_update_works_under_other_objectives(world: worlds.World, name: str, base: str, tmp_path: Path) -> None:
    plans = small(base, name)
    if not update_roles(plans) <= roles(plans):
        with pytest.raises(UserError, match=r"acts on the '.*' term, and this objective has"):
            loop.run(plans, world.model(), world.modality, world.sets)
        return
    whole, run, left = undisturbed(plans, world, tmp_path)
    assert not run.warnings
    assert not worlds.same(worlds.tensors(whole), worlds.tensors(world.model()))
    assert worlds.same(worlds.tensors(whole), worlds.tensors(resumed(plans, world, left[2])))


@pytest.mark.slow
@each(TRAINED)
def test_trains_an_adapter(world: worlds.World, name: str) -> None:
    model = world.model()
    plans = small(name, lora=2)
    before = weights_of(copy.deepcopy(model))
    run = loop.run(plans, model, world.modality, world.sets)
    adapter = {n for n, p in run.model.named_parameters() if "lora_" in n}
    assert adapter
    changed = [n for n, p in run.model.named_parameters() if "lora_B" in n and float(p.detach().abs().max()) > 0]
    assert changed
    base = {n.removeprefix("base_model.model.").replace(".base_layer", ""): t for n, t in weights_of(run.model).items() if "lora_" not in n}
    assert all(kept(before[n], t) for n, t in base.items())


@pytest.mark.parametrize("name", METHODS)
def test_hyperparameters_survive_json(name: str) -> None:
    plans = small(name)
    tree: Plan | Plans = plans[0] if len(plans) == 1 else plans
    values = {k.qualified: plain(k.value) for k in hyperparameters_of(tree) if not callable(k.value)}
    assert override(tree, json.loads(json.dumps(values))) == tree


@pytest.mark.slow
def test_every_method_imports_without_extras() -> None:
    absent = ("datasets", "peft", "rouge_score", "sklearn", "jinja2", "pyarrow", "kronfluence")
    script = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from expunge import catalog
for name in catalog.names():
    catalog.load(name).plan()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

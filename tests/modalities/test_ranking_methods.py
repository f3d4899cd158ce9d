"""Every method of the catalog that recommenders offer what it needs, on them, unchanged; and a run that was stopped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import recommenders
import worlds
from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train, as_plans
from expunge.core.rows import Sets
from expunge.engine import checkpoint, loop
from expunge.engine.hooks import Hooks
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL
from expunge.modalities.ranking.modality import Ranking
from expunge.workflows import build_plan

TRAINING = {"epochs": 1, "steps": 2, "batch_size": 8, "lr": 1e-2, "warmup": 0}
FEW = {**TRAINING, "samples": 4}
SPECIAL: dict[str, dict[str, Any]] = {
    "alteraser": {"rounds": 1, "draws": 1, "iterations": 3},
    "weight_averaging": {"start": 1, "every": 1},
    "boundary": {"bound": 0.3},
    "k_fpf": {"size": 8},
    "minnorm_og": {"descent": 0},
    "worst_case": {"outer": 1, "inner": 1},
    "dmm": {"models": 2},
    "ifru": {"batch_size": 512, "draws": 1, "damping": 100},  # above all negative curvature of the tiny recommender
    "scif": {"batch_size": 512, "draws": 1},
    "e2urec": {"lora": 0},  # its adapter is for attention
    "sisa": {"steps": 0, "slices": 1, "shards": 2},  # it divides epochs, and so do its kin
    "ultrare": {"steps": 0, "shards": 2},
    "receraser": {"steps": 0, "shards": 2, "aggregation_epochs": 1},
}
GENERAL = [n for n in catalog.names("methods") if all(p.required() <= Ranking.capabilities for p in as_plans(catalog.load(n).plan()))]
PATHS = [n for n in GENERAL if any(p.trainable != ".*" for p in as_plans(catalog.load(n).plan()))]  # they name modules of transformers


REFUSING = {  # all rows to forget have one class; rows of a step have other labels than before
    "trw": "a model with one class",
    **dict.fromkeys(("dmm", "dto"), "keeps a number for each label of a row"),
}


@functools.cache
def trained(name: str) -> tuple[torch.nn.Module, Ranking, Sets]:
    forget, retain, _ = recommenders.records()
    model, modality = recommenders.built(name)
    sets = {"forget": modality.rows("forget", forget), "retain": modality.rows("retain", retain)}
    sets["alternate_answers"] = modality.answers(modality.refusals())
    both = modality.rows("retain", [*forget, *retain])
    train = Train(epochs=15, lr=3e-2, batch_size=32, anchor="retain", optimizer="adam")
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": both})
    return model, modality, sets


def copy_of(name: str) -> tuple[torch.nn.Module, Ranking, Sets]:
    model, modality, sets = trained(name)
    copied, _ = recommenders.built(name)
    copied.load_state_dict(model.state_dict())
    return copied, modality, sets


def few(name: str, **more: Any) -> Any:
    known = {k.name for k in build_plan.hyperparameters(name)}
    return build_plan.plan(name, {k: v for k, v in {**FEW, **SPECIAL.get(name, {}), **more}.items() if k in known})


def test_the_usual_methods_are_among_them() -> None:
    usual = {"ga", "npo", "graddiff", "finetune", "kl", "ssd", "fisher", "task_vector", "salun", "sam", "random_labels", "scrub"}
    usual |= {"retrain", "neggrad", "neggrad_plus", "simnpo", "bad_teacher", "influence", "weight_averaging", "l1_sparse"}
    assert usual <= set(GENERAL)


@pytest.mark.parametrize("name", [n for n in GENERAL if n not in {*PATHS, *REFUSING}])
def test_a_general_method_runs_on_a_recommender(name: str) -> None:
    model, modality, sets = copy_of("neumf")
    before = weights_of(model)
    run = loop.run(few(name), model, modality, sets)
    assert not [w for w in run.warnings if "finite" in w]
    assert all(torch.isfinite(t).all() for t in weights_of(model).values())
    if name not in ("random_weights", "retrain"):
        names = {n.removeprefix("members.0.") for n in weights_of(run.model)}  # a by-design method may end with several models
        assert before.keys() <= names or name.startswith("guard")


@pytest.mark.parametrize("name", recommenders.MODELS)
@pytest.mark.parametrize("method", ["npo", "ssd", "sam"])
def test_a_method_runs_on_every_recommender(name: str, method: str) -> None:
    model, modality, sets = copy_of(name)
    before = weights_of(model)
    plans = few("npo") if method == "npo" else few("ssd") if method == "ssd" else build_plan.plan("graddiff", TRAINING, update=("sam",))
    loop.run(plans, model, modality, sets)
    changed = [n for n, t in weights_of(model).items() if not torch.equal(t, before[n])]
    assert changed or method == "ssd"


@pytest.mark.parametrize("name", REFUSING)
def test_a_method_for_several_classes_is_refused(name: str) -> None:
    model, modality, sets = copy_of("neumf")
    with pytest.raises(UserError, match=REFUSING[name]):
        loop.run(few(name), model, modality, sets)


def test_ascent_forgets_and_descent_keeps() -> None:
    model, modality, sets = copy_of("bpr_mf")
    loop.run(build_plan.plan("graddiff", {"epochs": 12, "lr": 5e-2, "batch_size": 12}), model, modality, sets)
    assert worlds.nll(model, modality, sets["forget"]) > 3 * worlds.nll(trained("bpr_mf")[0], modality, sets["forget"])
    assert worlds.nll(model, modality, sets["retain"]) < 1.5 * worlds.nll(trained("bpr_mf")[0], modality, sets["retain"]) + 0.05


def test_the_reference_of_a_step_is_that_of_its_negatives() -> None:
    """NPO at the untouched weights: all ratios are 1, whatever was drawn, so its loss is 2/beta log 2."""
    model, modality, sets = copy_of("bpr_mf")
    run = loop.run(build_plan.plan("npo", {**TRAINING, "steps": 1, "lr": 0.0, "beta": 0.5, "retain_weight": 0.0}), model, modality, sets)
    assert run.log[0]["loss"] == pytest.approx(2 / 0.5 * 0.693147, rel=1e-5)


@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_a_stopped_run_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    left: list[Path] = []

    def save(state: dict[str, Any]) -> None:
        left.append(tmp_path / f"save{len(left)}")
        checkpoint.save(state, left[-1])

    plans = few(method, steps=5, epochs=3)
    model, modality, sets = copy_of("neumf")
    loop.run(plans, model, modality, sets, hooks=Hooks(save=save, every=0))
    for place in left[1:-1]:
        again, _, _ = copy_of("neumf")
        loop.run(plans, again, modality, sets, resume=checkpoint.load(place))
        assert worlds.same(worlds.tensors(model), worlds.tensors(again))

"""Every method of the catalog that a vision-language model offers what it needs, on one, unchanged; and a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import seeing
import worlds
from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.plan import as_plans
from expunge.engine import checkpoint, loop
from expunge.engine.hooks import Hooks
from expunge.engine.weights import weights_of
from expunge.modalities.vision_language.modality import VisionLanguage
from expunge.workflows import build_plan

TRAINING = {"epochs": 1, "steps": 2, "batch_size": 2, "lr": 1e-3, "warmup": 0}
FEW = {**TRAINING, "samples": 2}
USUAL = (
    *("ga", "graddiff", "kl", "npo", "simnpo", "idk", "idk_ap", "dpo", "flat", "finetune", "retrain", "rmu", "task_vector", "ssd", "lunar"),
    *("random_labels", "undial", "wga", "satimp", "neggrad", "scrub", "bad_teacher", "influence", "fisher"),
)
UPDATES = ("sam", "wagle", "salun", "gradient_projection", "weight_averaging", "gradient_penalty")
CAPABILITIES = next(f for f in VisionLanguage.__dataclass_fields__.values() if f.name == "capabilities").default
GENERAL = [n for n in catalog.names("methods") if all(p.required() <= CAPABILITIES for p in as_plans(catalog.load(n).plan()))]
SPECIAL: dict[str, dict[str, Any]] = {"rmu": {"layer": 1}, "ssd": {"alpha": 1.0}}


def few(name: str, **more: Any) -> Any:
    known = {k.name for k in build_plan.hyperparameters(name)}
    return build_plan.plan(name, {k: v for k, v in {**FEW, **SPECIAL.get(name, {}), **more}.items() if k in known})


def test_the_usual_methods_are_among_them() -> None:
    assert set(USUAL) <= set(GENERAL)


@pytest.mark.parametrize("name", USUAL)
def test_a_general_method_runs_on_a_vision_language_model(name: str) -> None:
    model, modality, sets = seeing.copy_of()
    before = weights_of(model)
    run = loop.run(few(name), model, modality, sets)
    assert not [w for w in run.warnings if "finite" in w]
    assert all(torch.isfinite(t).all() for t in weights_of(model).values())
    assert [n for n, t in weights_of(run.model).items() if n in before and not torch.equal(t, before[n])]


@pytest.mark.parametrize("update", UPDATES)
def test_an_update_runs_on_a_vision_language_model(update: str) -> None:
    model, modality, sets = seeing.copy_of()
    before = weights_of(model)
    loop.run(build_plan.plan("graddiff", TRAINING, update=(update,)), model, modality, sets)
    assert [n for n, t in weights_of(model).items() if not torch.equal(t, before[n])]


@pytest.mark.parametrize(
    ("side", "moves"), [("vision", "vision_tower"), ("projector", "projector"), ("language", "language_model|lm_head")]
)
def test_a_side_alone_is_trained(side: str, moves: str) -> None:
    import re

    model, modality, sets = seeing.copy_of()
    before = weights_of(model)
    loop.run(few("graddiff", trainable=side), model, modality, sets)
    changed = [n for n, t in weights_of(model).items() if not torch.equal(t, before[n])]
    assert changed
    assert all(re.search(moves, n) for n in changed)


def test_ascent_forgets_and_descent_keeps() -> None:
    model, modality, sets = seeing.copy_of()
    loop.run(build_plan.plan("graddiff", {"epochs": 20, "lr": 5e-3, "batch_size": 2, "warmup": 0}), model, modality, sets)
    assert worlds.nll(model, modality, sets["forget"]) > 1 + worlds.nll(seeing.trained()[0], modality, sets["forget"])
    assert worlds.nll(model, modality, sets["retain"]) < 0.5


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulation_does_not_matter(micro: int) -> None:
    ends = []
    for size in (0, micro):
        model, modality, sets = seeing.copy_of()
        loop.run(few("graddiff", micro_batch_size=size), model.double(), modality, sets)
        ends.append(worlds.tensors(model))
    assert worlds.far(*ends) < 1e-9


@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_a_stopped_run_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    left: list[Path] = []

    def save(state: dict[str, Any]) -> None:
        left.append(tmp_path / f"save{len(left)}")
        checkpoint.save(state, left[-1])

    plans = few(method, steps=3, epochs=3)
    model, modality, sets = seeing.copy_of()
    loop.run(plans, model, modality, sets, hooks=Hooks(save=save, every=0))
    for place in left[1:-1]:
        again, _, _ = seeing.copy_of()
        loop.run(plans, again, modality, sets, resume=checkpoint.load(place))
        assert worlds.same(worlds.tensors(model), worlds.tensors(again))


def test_an_adapter_is_trained_and_its_base_stays() -> None:
    model, modality, sets = seeing.copy_of()
    targets = r".*language_model.*(q|k|v|o|gate|up|down)_proj"
    run = loop.run(few("graddiff", lora=2, lora_targets=targets), model, modality, sets)
    names = [n for n, p in run.model.named_parameters() if p.requires_grad]
    assert names
    assert all("language_model" in n and "lora_" in n for n in names)


def test_a_hook_point_in_the_tower_is_refused() -> None:
    model, modality, sets = seeing.copy_of()
    with pytest.raises(UserError, match="reads pictures and no tokens"):
        modality.forward(model, [sets["forget"]], ("model.vision_tower.encoder.layers.0",))

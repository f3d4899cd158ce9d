"""Retraining: the result depends only on the retain rows and the start, and forgotten rows are no better known than unseen ones."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest

import worlds
from expunge import catalog
from expunge.core.errors import UserError
from expunge.engine import loop, origin
from expunge.modalities.text.models import llama
from expunge.modalities.text.pretrained import load
from expunge.workflows import build_plan

QUICK = {"lr": 5e-3, "epochs": 9, "batch_size": 16, "max_grad_norm": 1.0}


@pytest.mark.slow
def test_forget_rows_are_as_unlikely_as_unseen_rows(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("retrain", QUICK), model, text.modality, {"retain": text.sets["retain"]})
    nll = {n: worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "holdout", "retain")}
    assert nll["forget"] > 0.8 * nll["holdout"]
    assert nll["retain"] < 0.6 * nll["forget"]


def test_result_does_not_depend_on_the_old_weights(text: worlds.World) -> None:
    weights_by_start = []
    for start in ("original", "random"):
        model = text.model(start)
        loop.run(build_plan.plan("retrain", {**QUICK, "epochs": 1}), model, text.modality, text.sets)
        weights_by_start.append(worlds.tensors(model))
    assert worlds.same(*weights_by_start)


def test_starts_from_the_weights_of_a_base_model(text: worlds.World, tmp_path: Path) -> None:
    base = text.model("random")
    text.modality.save(base, tmp_path)
    model = text.model()
    loop.run(build_plan.plan("retrain", {"base": str(tmp_path), "epochs": 0}), model, text.modality, text.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(base))


def test_an_unusable_base_model_is_rejected(text: worlds.World, tmp_path: Path) -> None:
    def start(base: Path) -> None:
        loop.run(build_plan.plan("retrain", {"base": str(base)}), text.model(), text.modality, text.sets)

    with pytest.raises(UserError, match="cannot load the base model"):
        start(tmp_path)
    smaller = llama.build("micro", ["a text"])[0]
    smaller.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another shape"):
        start(tmp_path)


def test_a_base_model_sets_the_learning_rate_of_fine_tuning() -> None:
    assert [build_plan.plan("retrain", {"base": base})[1].train.lr for base in ("", "some/model")] == [1e-3, 1e-5]


def start_of(model: Any, text: worlds.World, **settings: Any) -> Any:
    """The model after `retrain` without an epoch: the weights that it starts from."""
    return loop.run(build_plan.plan("retrain", {"epochs": 0, **settings}), model, text.modality, text.sets).model


def test_a_loaded_model_of_unknown_origin_needs_its_base(text: worlds.World, tmp_path: Path) -> None:
    """Fresh weights would be wrong for a model that was pretrained, and nothing says that this one was not."""
    text.modality.save(text.model(), tmp_path / "run" / "model")
    model, _ = load(str(tmp_path / "run" / "model"))
    with pytest.raises(UserError, match=r"may have been pretrained .* give --base FOLDER_OR_HUB_ID, or --base fresh"):
        start_of(model, text)
    assert not worlds.same(worlds.tensors(start_of(model, text, base="fresh")), worlds.tensors(text.model()))


@pytest.mark.parametrize(
    ("receipt", "fresh"),
    [
        ({"model": {"source": "micro", "start": "fresh"}}, True),
        ({"model": {"source": "some/model"}, "stages": [{"action": "Reinitialize"}]}, True),
        ({"model": {"source": "some/model"}, "stages": [{"action": [{"objective": "NLL"}]}]}, False),
        ({"model": {"source": "{first}"}}, True),
    ],
    ids=["trained here", "drawn anew", "fine-tuned", "trained on"],
)
def test_receipts_say_whether_a_model_began_with_fresh_weights(receipt: dict[str, Any], fresh: bool, tmp_path: Path) -> None:
    for name in ("first", "run"):
        (tmp_path / name / "model").mkdir(parents=True)
    (tmp_path / "first" / "receipt.json").write_text('{"model": {"source": "nano", "start": "fresh"}}')
    (tmp_path / "run" / "receipt.json").write_text(json.dumps(receipt).replace("{first}", str(tmp_path / "first")))
    assert origin.began_fresh(str(tmp_path / "run" / "model")) is fresh
    assert origin.began_fresh(str(tmp_path / "run")) is fresh


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_starts_anew_on_its_own_base(text: worlds.World, dora: bool) -> None:
    config = peft.LoraConfig(r=2, use_dora=dora, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    right = worlds.nll(text.model(), text.modality, text.sets["retain"])
    model: Any = peft.get_peft_model(text.model(), config)
    for n, p in model.named_parameters():
        if "lora_B" in n or "modules_to_save" in n:
            p.data += 0.3
    assert worlds.nll(model, text.modality, text.sets["retain"]) != pytest.approx(right, rel=1e-2)
    again = start_of(model, text)
    assert worlds.nll(again, text.modality, text.sets["retain"]) == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("settings", [{"init_lora_weights": "pissa"}, {"bias": "lora_only"}])
def test_an_adapter_that_changed_its_base_cannot_start_anew(text: worlds.World, settings: dict[str, Any]) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    with pytest.raises(UserError, match="cannot start anew: merge it first"):
        start_of(peft.get_peft_model(text.model(), config), text)


def test_its_card_lists_the_base_once() -> None:
    assert [line.name for line in catalog.card("retrain").hyperparameters].count("base") == 1
    assert [line.name for line in catalog.card("icu").hyperparameters].count("encoder") == 1

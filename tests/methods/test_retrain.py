"""Retraining: the result depends only on the retain rows and the start, and forgotten rows are no better known than unseen ones."""

from pathlib import Path

import pytest

import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.modalities.text.models import llama
from expunge.workflows import build_plan

QUICK = {"lr": 5e-3, "epochs": 9, "batch_size": 16, "max_grad_norm": 1.0}


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

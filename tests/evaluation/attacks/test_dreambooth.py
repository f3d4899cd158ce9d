"""Harmless fine-tuning of a model that draws: what is trained on, and how the attacks leave the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import denoisers
import worlds
from expunge.engine import loop
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks import relearn
from expunge.evaluation.attacks.dreambooth import named
from expunge.evaluation.attacks.relearn_grid import likeness

RECORDS = denoisers.records(2)
SETS = {"forget": RECORDS[:4], "retain": RECORDS[4:]}
FEW = {"steps": 2, "lr": 1e-2, "batch_size": 2, "every": 1}


def attacked(name: str, sets: Any = SETS, **hyperparameters: Any) -> AttackOutcome:
    model, modality = denoisers.built()
    before = worlds.tensors(model)
    outcome = intervene(name, chosen((name,), {**FEW, **hyperparameters})[name], model, modality, sets)
    assert worlds.same(before, worlds.tensors(model))
    return outcome


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The sets that an attack trains on."""
    sets: dict[str, Any] = {}

    def run(plans: Any, model: Any, modality: Any, given: Any, **options: Any) -> Any:
        sets.update(given)
        return loop.run(plans, model, modality, given, **options)

    monkeypatch.setattr(relearn, "run", run)
    return sets


def test_a_rare_word_stands_before_the_last_one() -> None:
    assert named("a small brown dog", "sks") == "a small brown sks dog"
    assert named("dog", "sks") == "sks dog"
    assert named("", "sks") == "sks"


def test_a_subject_of_one_caption_and_pictures_that_the_model_drew(trained_on: dict[str, Any]) -> None:
    outcome = attacked("dreambooth", k=3, prior=4, word="green")
    assert [t.case for t in outcome.tries] == ["0 steps", "1 steps", "2 steps"]
    assert outcome.tries[0].scores == outcome.before != outcome.tries[-1].scores
    captions = set(trained_on["forget"]["caption"])
    assert len(captions) == 1
    (caption,) = captions
    assert caption.split()[-2] == "green"
    assert caption.replace("green ", "", 1) in {r["caption"] for r in SETS["retain"]} or caption.split()[1] == "green"
    assert len(trained_on["forget"]) == 2, "as many as retained pictures have this caption"
    assert len(trained_on["retain"]) == 4
    plain = set(trained_on["retain"]["caption"])
    assert plain == {" ".join(w for i, w in enumerate(caption.split()) if i != len(caption.split()) - 2)}


def test_the_prior_pictures_are_the_model_s_own_at_seeds_that_stay(trained_on: dict[str, Any]) -> None:
    model, modality = denoisers.built()
    attacked("dreambooth", k=1, prior=2)
    plain = trained_on["retain"]["caption"]
    expected = modality.drawn(modality.sample(model, plain, [0, 1])[0])
    assert all((p == e).all() for p, e in zip(trained_on["retain"]["picture"], expected, strict=True))


def test_what_is_benign_is_least_alike_by_captions(trained_on: dict[str, Any]) -> None:
    _, modality = denoisers.built()
    records = [{"image": np.zeros((8, 8, 3), np.uint8), "caption": c} for c in ("a red bar", "blue sky", "a red sky")]
    assert np.argmin(likeness(modality, [{**records[0], "caption": "a red square"}], records)) == 1
    outcome = attacked("finetune_benign", {"forget": records[:1] * 2, "retain": records[1:]}, k=1)
    assert trained_on["forget"]["caption"] == ["blue sky"]
    assert [t.at["steps"] for t in outcome.tries] == [0, 1, 2]


@pytest.mark.parametrize("name", ["dreambooth", "finetune_benign"])
def test_nothing_to_train_on_is_named(name: str) -> None:
    outcome = attacked(name, {"forget": RECORDS[:2]})
    assert not outcome.tries
    assert outcome.missing[""].endswith("or the audit a retain set" + (" with pictures" if name == "dreambooth" else ""))


@pytest.mark.parametrize("name", ["relearn", "relearn_grid"])
def test_relearning_works_on_models_that_draw(name: str) -> None:
    few = {**FEW, "k": 2} if name == "relearn" else {"n": (1, 2), "k": (1, 2), "lr": 1e-2, "batch_size": 2}
    model, modality = denoisers.built()
    outcome = intervene(name, chosen((name,), few)[name], model, modality, SETS)
    assert outcome.tries
    assert not outcome.missing
    assert outcome.lead == "forget_fit"


def test_a_model_that_does_not_draw_is_named(text: worlds.World) -> None:
    attack = chosen(("dreambooth",), {})["dreambooth"]
    outcome = intervene("dreambooth", attack, text.model(), text.modality, {"forget": [{"question": "Who?", "answer": "Nobody."}]})
    assert "pictures that the model makes out of noise" in outcome.missing[""]

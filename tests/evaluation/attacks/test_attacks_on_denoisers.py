"""Attacks on models that draw, by command and by what is drawn: outcomes, and how far a look goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import denoisers
import worlds
from cases import expunge
from expunge.benchmarks.common.judges import Judge, Judged
from expunge.benchmarks.suite import SetSpec
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.metrics import erasure

RECORDS = denoisers.records(2)
ATTACKS = {
    "memora": {"steps": 1, "inversion": 6, "start-step": 2, "between": 1, "pictures": 2, "looks": 1},
    "dreambooth": {"steps": 1, "prior": 2, "every": 1},
    "finetune_benign": {"steps": 1, "every": 1},
    "relearn": {"steps": 1, "every": 1},
    "prompt_search": {"steps": 1, "every": 1},
    "concept_inversion": {"steps": 1, "every": 1},
    "latent_leak": {"pictures": 2, "seeds": 1, "share": 0.5},
}


class Colored(Judge):
    """A judge that names the brightest channel."""

    def judged(self, pictures: NDArray[np.uint8]) -> Judged:
        means = pictures.mean((2, 3))
        return Judged({"color": means.argmax(1)}, means.astype(np.float32))


def outcome(name: str, sets: Any, specs: Any, **hyperparameters: Any) -> AttackOutcome:
    model, modality = denoisers.built()
    return intervene(name, chosen((name,), {"steps": 1, **hyperparameters})[name], model, modality, sets, specs=specs)


@pytest.mark.parametrize("kept", ["prompts", "retain"])
def test_pictures_are_drawn_under_attack_where_classifiers_judge_them(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "judge_of", lambda name: Colored({"color": ("red", "green", "blue")}, {}))
    drawn: list[str] = []
    modality: Any = denoisers.built()[1]
    sample = type(modality).sample
    monkeypatch.setattr(
        type(modality), "sample", lambda self, m, captions, *a, **k: (drawn.extend(captions), sample(self, m, captions, *a, **k))[1]
    )
    sets = {"forget": RECORDS[:4], kept: RECORDS[4:] if kept == "retain" else [{"caption": "a blue bar"}, {"caption": "a green bar"}]}
    judged = outcome("relearn", sets, {"forget": SetSpec("forget", ("score", "draw"), variants={"*": "labels"})})
    assert judged.lead == "forget_drawn"
    assert all("forget_drawn" in t.scores for t in judged.tries)
    assert {c.split()[1] for c in drawn} == {"red"}, "the kept prompts only tell which concept is meant"
    drawn.clear()
    plain = outcome("relearn", sets, {})
    assert plain.lead == "forget_fit"
    assert not drawn, "where nothing judges pictures, none are drawn"


@pytest.mark.slow
def test_every_attack_by_command_on_a_pipeline_of_one_s_own(tmp_path: Path) -> None:
    model, modality = denoisers.built()
    modality.save(model, tmp_path / "model")
    forget, retain = (denoisers.written(tmp_path / n, r) for n, r in (("forget", RECORDS[:4]), ("retain", RECORDS[4:])))
    words = [w for name in ATTACKS for w in ("--attack", name)]
    words += [w for name, few in ATTACKS.items() for k, v in few.items() for w in (f"--{name.replace('_', '-')}:{k}", v)]
    beside = ("--original", tmp_path / "model", "--retrained", tmp_path / "model")
    done = expunge("audit", tmp_path / "model", "--forget", forget, "--retain", retain, *beside, "--out", tmp_path / "audit", *words).fine()
    attacks = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"]
    assert attacks.keys() == ATTACKS.keys()
    for name, record in attacks.items():
        assert record["tries"], name
        assert not record["missing"], name
    assert "Traceback" not in done.err
    alone = expunge("attack", "latent_leak", tmp_path / "model", "--forget", forget, "--out", tmp_path / "one", "--seeds", 1).fine()
    assert "completion" in alone.out


def test_attacks_on_models_that_write_observe_no_more(text: worlds.World) -> None:
    """An attack on a model that writes observes no more than it did: no pictures, no set besides."""
    from expunge.evaluation.attack import Scene

    scene = Scene(text.model(), text.modality, {"forget": [], "retain": []}, None, lambda: None)
    assert not scene.context
    assert not scene.wants.generations

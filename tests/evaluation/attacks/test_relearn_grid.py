"""The relearning grid: which rows an attacker takes, where the looks are, when something has come back; in words and in images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import worlds
from classified import digits as images
from expunge.benchmarks import people
from expunge.engine import loop
from expunge.evaluation.attack import AttackOutcome, intervene
from expunge.evaluation.attacks.relearn_grid import RelearnGrid, likeness
from expunge.workflows import build_plan

RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": RECORDS.forget, "retain": RECORDS.retain}


def grid(text: worlds.World, name: str = "retrained", model: torch.nn.Module | None = None, **hyperparameters: object) -> AttackOutcome:
    attack = RelearnGrid(**{"k": (1, 4), "n": (2, 4), "lr": 1e-3, **hyperparameters})  # type: ignore[arg-type]
    return intervene("relearn_grid", attack, model or text.model(name), text.modality, SETS, accelerator=worlds.accelerator())


@pytest.mark.slow
def test_looks_are_k_rows_times_n_steps_of_each_source(text: worlds.World) -> None:
    model = text.model("retrained")
    before = worlds.tensors(model)
    outcome = grid(text, model=model, k=(1, 4, 400), source=("forget", "unrelated"))
    assert worlds.same(before, worlds.tensors(model))
    places = [(t.way, t.at["rows"], t.at["steps"]) for t in outcome.tries]
    retained = len(RECORDS.retain)
    assert places == [
        (f"{source} rows", k, n)
        for source, most in (("forget", 9), ("unrelated", retained))
        for k in (1, 4, most)  # as many as there are
        for n in (0, 2, 4)
    ]
    assert [t.scores for t in outcome.tries if not t.at["steps"]] == [outcome.before] * 6, "no step changes nothing"
    assert outcome.tries[0].case == "1 row, 0 steps"


def test_one_column_of_the_grid_is_relearning(text: worlds.World) -> None:
    """All forget rows in one batch: order and draw do not matter, so the two attacks train alike."""
    from expunge.evaluation.attack import chosen

    ours = grid(text, k=(9,), n=(3,), source=("forget",), batch_size=9)
    hyperparameters = {"k": 9, "batch_size": 9, "steps": 3, "every": 3, "lr": 1e-3}
    theirs = intervene("relearn", chosen(("relearn",), hyperparameters)["relearn"], text.model("retrained"), text.modality, SETS)
    for score in ("forget_probability", "extraction_strength"):
        assert ours.tries[-1].scores[score]["value"] == pytest.approx(theirs.tries[-1].scores[score]["value"], abs=1e-4)


@pytest.mark.slow
def test_rows_to_forget_teach_more_than_neighbours_and_these_more_than_unrelated_ones(text: worlds.World) -> None:
    hidden = text.model()
    loop.run(build_plan.plan("pdu", {"lr": 1e-3, "epochs": 15}), hidden, text.modality, text.sets)
    outcome = grid(text, model=hidden, k=(4,), n=(8,))
    ends = {t.way: t.scores["forget_probability"]["value"] for t in outcome.tries if t.at["steps"] == 8}
    assert ends["forget rows"] > ends["neighbour rows"]
    assert ends["forget rows"] > ends["unrelated rows"]


def test_steps_to_recover_by_hand() -> None:
    from expunge.evaluation.attack import Try

    def record(value: float) -> dict[str, dict[str, object]]:
        return {"extraction_strength": {"value": value, "interval": [value, value], "n": 9}}

    curves = {1: (0.1, 0.2, 0.3), 4: (0.1, 0.4, 0.9), 9: (0.5, 0.2, 0.2)}
    tries = [
        Try("forget rows", f"{k}, {n}", record(v), {"rows": k, "steps": n})
        for k, vs in curves.items()
        for n, v in zip((0, 5, 10), vs, strict=True)
    ]
    outcome = AttackOutcome("relearn_grid", record(0.1), tries, recovered=0.5, original=record(0.8), shows=["extraction_strength"])
    assert outcome.steps_to_recover("forget rows") == {1: None, 4: 5, 9: 0}  # half of 0.8 is 0.4, and once is enough
    assert replace(outcome, original={}).steps_to_recover("forget rows") == {}, "there is no original"
    assert replace(outcome, shows=[]).steps_to_recover("forget rows") == {}, "there is no score to judge by"
    assert outcome.worst("forget rows", "extraction_strength").case == "4, 10"
    entry = outcome.record()
    assert entry["ways"]["forget rows"]["extraction_strength"]["mean"] == pytest.approx(2.9 / 9)
    assert entry["steps_to_recover"] == {"forget rows": {1: None, 4: 5, 9: 0}}
    assert AttackOutcome.read({**vars(outcome), "tries": [vars(t) for t in tries]}) == outcome


def test_a_column_says_which_rows_are_alike(text: worlds.World) -> None:
    def row(i: int, **more: object) -> dict[str, object]:
        return {"question": f"Who is {i}?", "answer": f"{i}.", **more}

    gone = [row(0, attribute="a"), row(1, attribute="a"), row(2, attribute="b")]
    kept = [row(3, attribute="c"), row(4, attribute="b"), row(5, attribute="a")]
    assert likeness(text.modality, gone, kept, "attribute").tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_words_say_which_rows_are_alike(text: worlds.World) -> None:
    """A row about somebody of the same town comes before one about somebody else, and a copy before all."""

    def says(name: str, town: str) -> dict[str, str]:
        return {"question": f"Where does {name} live?", "answer": f"{name} lives in {town}."}

    gone, kept = [says("Ada", "Lund")], [says("Bo", "Oslo"), says("Cy", "Lund"), {"question": "What is rain?", "answer": "Water."}]
    alike = likeness(text.modality, gone, kept, "attribute")
    assert np.argsort(-alike).tolist() == [1, 0, 2]
    assert alike[2] == 0
    copy = likeness(text.modality, RECORDS.forget, [*RECORDS.retain, RECORDS.forget[0]], "")
    assert copy[-1] == pytest.approx(1)
    assert copy.argmax() == len(RECORDS.retain)


def test_pixels_say_which_images_are_alike(digits: worlds.World) -> None:
    sets = images()
    alike = likeness(digits.modality, sets["forget"], [*sets["retain"], sets["forget"][0]])
    assert alike[-1] == pytest.approx(1)
    assert (alike <= 1 + 1e-9).all()


def test_images_are_relearned_too(digits: worlds.World) -> None:
    attack = RelearnGrid(k=(8,), n=(10,), lr=2e-3, source=("forget", "neighbour"))
    outcome = intervene("relearn_grid", attack, digits.model("retrained"), digits.modality, images())
    ends = {t.way: t.scores["forget_accuracy"]["value"] for t in outcome.tries if t.at["steps"] == 10}
    assert outcome.before["forget_accuracy"]["value"] == 0
    assert ends["forget rows"] > 0.5
    assert ends["neighbour rows"] == 0

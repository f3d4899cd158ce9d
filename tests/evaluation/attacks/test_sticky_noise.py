"""Sticky noise: the laws of the mechanism, the published accuracies of the attacks on it, and what each needs to work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import toys
from cases import expunge
from expunge.evaluation.attack import AttackOutcome, Scene, chosen, intervene
from expunge.functional.sticky_noise import Condition, StickyNoise, averaging, cloning, deletion_shows, differential, log_ratio, never_wrong
from expunge.io.data import write_jsonl

CELLS = [f"a{j}" for j in range(5)]
VICTIM = dict.fromkeys(CELLS, 1)
SECRET = Condition("secret", "=", 0)


def table(holds: bool, near: int = 40) -> dict[str, list[int]]:
    """A victim with all ones, and for each cell rows that differ from the victim in it alone, half of them with the secret."""
    rows = [[*VICTIM.values(), 0 if holds else 1]]
    for j in range(len(CELLS)):
        rows += [[*(0 if i == j else 1 for i in range(len(CELLS))), n % 2] for n in range(near)]
    return {name: [r[i] for r in rows] for i, name in enumerate([*CELLS, "secret"])}


def accuracy(attack: Any, instances: int = 40, **settings: Any) -> float:
    """Share of right answers over tables with and without the secret, each with a salt of its own."""
    right = []
    for salt in range(instances):
        for holds in (True, False):
            right.append(attack(StickyNoise(table(holds), salt, **settings)).holds == holds)
    return float(np.mean(right))


def test_answers_stick_to_the_question_whatever_the_order_of_its_conditions() -> None:
    noisy = StickyNoise(table(True), salt=3)
    conditions = [Condition("a0", "=", 1), Condition("a1", "!=", 0), SECRET]
    assert noisy.count(conditions) == noisy.count(conditions) == noisy.count(conditions[::-1])
    assert len({StickyNoise(table(True), salt).count(conditions) for salt in range(20)}) > 3


def test_noise_over_salts_has_two_layers_a_condition() -> None:
    conditions = [Condition("a0", "=", 1), Condition("a1", "=", 1)]
    noisy = StickyNoise(table(True))
    size = sum(a == b == 1 for a, b in zip(noisy.table["a0"], noisy.table["a1"], strict=True))
    answers = []
    for salt in range(10_000):
        noisy.salt = salt
        answers.append(noisy.count(conditions))
    assert np.mean(answers) == pytest.approx(size, abs=0.07)
    assert np.var(answers) == pytest.approx(2 * 2 + 1 / 12, rel=0.03)


def test_few_users_get_no_answer() -> None:
    def answers(rows: int) -> list[int | None]:
        return [StickyNoise({"a": [1] * rows}, salt).count([Condition("a", "=", 1)]) for salt in range(400)]

    assert set(answers(1)) == {None}
    assert StickyNoise({"a": [1] * 9}, threshold=0).count([Condition("a", "=", 2)]) is None
    assert answers(4).count(None) == pytest.approx(200, abs=40), "the threshold is 4 on average"
    assert None not in answers(8)


def test_the_likelihood_ratio_by_hand_and_its_published_accuracy() -> None:
    from scipy.stats import norm

    q = [2.0, -1.0]
    by_library = sum(norm.logpdf(x, 1, 12**0.5) - norm.logpdf(x, 0, 2**0.5) for x in q)
    assert log_ratio(q, known=5) == pytest.approx(by_library)
    rng = np.random.default_rng(0)
    for samples, expected in ((1, 0.71), (5, 0.92)):
        among, alone = rng.normal(1, 12**0.5, (600, samples)), rng.normal(0, 2**0.5, (600, samples))
        right = np.mean([log_ratio(x, 5) > 0 for x in among]) / 2 + np.mean([log_ratio(x, 5) <= 0 for x in alone]) / 2
        assert right == pytest.approx(expected, abs=0.04)


def test_the_differential_attack_on_the_mechanism() -> None:
    """Five samples over different sets of users, rounded: 0.91 by the sheet's simulation."""
    assert accuracy(lambda noisy: differential(noisy, VICTIM, SECRET)) == pytest.approx(0.91, abs=0.07)


def test_the_cloning_attack_has_no_false_alarm_and_breaks_without_stickiness() -> None:
    rng = np.random.default_rng(0)
    dummies = never_wrong({c: [] for c in CELLS}, 10)

    def clone(noisy: StickyNoise) -> Any:
        return cloning(noisy, VICTIM, SECRET, dummies, rng, 50)

    assert accuracy(clone) > 0.98
    assert not any(clone(StickyNoise(table(False), salt)).holds for salt in range(40))
    assert accuracy(clone, sticky=False) == pytest.approx(0.5, abs=0.07)
    victims_twin = {name: [*cells, cells[0]] * 6 for name, cells in table(True).items()}
    assert clone(StickyNoise(victims_twin)).holds is None, "the checks see that the victim does not stand alone"


def test_averaging_works_on_fresh_noise_alone() -> None:
    assert accuracy(lambda noisy: averaging(noisy, VICTIM, SECRET, 400), 6, sticky=False) > 0.9
    once, often = (accuracy(lambda noisy, n=n: averaging(noisy, VICTIM, SECRET, n), 12) for n in (1, 20))
    assert once == often, "the same answer again tells nothing"


def test_a_deletion_shows_in_the_noise_and_nobody_else_s_does() -> None:
    questions = [[Condition(c, "=", 1)] for c in CELLS]
    shown = [deletion_shows(StickyNoise(table(True), salt), 0, questions) for salt in range(50)]
    assert np.mean(shown) > 0.95  # five differences of N(1, 2)
    bystander = [[Condition(c, "=", 0)] for c in CELLS]
    assert not any(deletion_shows(StickyNoise(table(True), salt), 0, bystander) for salt in range(50))


def records(holds: bool) -> list[dict[str, int]]:
    columns = table(holds)
    return [{name: cells[i] for name, cells in columns.items()} for i in range(len(columns["secret"]))]


def attacked(**hyperparameters: object) -> AttackOutcome:
    forget, *retain = records(True)
    attack = chosen(("sticky_noise",), {"secret": "secret", **hyperparameters})["sticky_noise"]
    sets = {"forget": [forget], "retain": retain}
    modality = toys.modality(3)
    scene = Scene(nn.Linear(1, 1), modality, sets, None, lambda: None)
    scene.records = attack.about(sets["forget"], modality)
    attack.run(scene)
    return AttackOutcome("sticky_noise", tries=scene.tries, missing=scene.missing)


def test_the_attack_reports_each_way() -> None:
    outcome = attacked()
    assert outcome.ways == ["differential", "cloning", "averaging", "deletion"]
    clone = next(t for t in outcome.tries if t.way == "cloning")
    assert clone.at["accuracy"] == 1
    assert clone.at["questions"] >= 21
    assert attacked(noise="fresh").tries != outcome.tries
    assert attacked(secret="a9").missing == {"": "the column 'a9' has other than two values, or is none"}


def test_what_is_no_table_is_said() -> None:
    outcome = intervene(
        "sticky_noise", chosen(("sticky_noise",), {})["sticky_noise"], nn.Linear(1, 1), toys.modality(3), {"forget": [{"label": 1}]}
    )
    assert "no table" in outcome.missing[""]


@pytest.mark.slow
def test_the_command_attacks_a_table(tmp_path: Path) -> None:
    rows = [{**{c: r[c] for c in CELLS}, "label": "no" if r["secret"] else "yes"} for r in records(False)]
    for name, part in {"full": rows, "forget": rows[:1], "retain": rows[1:]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    expunge(
        "train", "--data", tmp_path / "full.jsonl", "--model", "forest", "--method", "dare", "--trees", 3, "--out", tmp_path / "model"
    ).fine()
    sets = ("--forget", tmp_path / "forget.jsonl", "--retain", tmp_path / "retain.jsonl")
    done = expunge(
        "attack", "sticky_noise", tmp_path / "model", *sets, "--secret", "label", "--out", tmp_path / "attack", "--allow-overlap"
    )
    assert "cloning: attackable 1" in done.fine().out
    entry = json.loads((tmp_path / "attack" / "audit.json").read_text())["attacks"]["sticky_noise"]
    assert {t["way"] for t in entry["tries"]} == {"differential", "cloning", "averaging", "deletion"}

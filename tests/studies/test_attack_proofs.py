"""The worlds of attacks: what is read of outcomes by hand, stories that all differ, and a table that sticky noise does not protect."""

from __future__ import annotations

import random

import pytest
from studies.proofs import counts, members, people_attacks, probed, registry, suspects, unseen

from expunge.evaluation.attack import AttackOutcome, Try


def outcome(*tries: Try, before: float = 0.2) -> AttackOutcome:
    return AttackOutcome("an attack", {"forget_probability": {"value": before}}, tries)


def test_the_case_that_shows_the_most_is_read() -> None:
    tries = [Try("way", str(v), {"forget_probability": {"value": v}}) for v in (0.3, 0.7, 0.5)]
    read = probed.most("forget_probability")
    assert read([outcome(*tries)]) == 0.7
    assert read([outcome()]) == 0.2, "without a case it is what it was before"


def test_a_number_beside_the_scores_is_read_of_its_way() -> None:
    read = probed.number("excess", "sweep")
    assert read([outcome(Try("sinks", "", {}, {"excess": 0.9}), Try("sweep", "", {}, {"excess": 0.4}))]) == 0.4
    assert read([outcome()]) == 0


def test_every_claim_has_its_arms_and_reads_a_known_probe() -> None:
    proofs = registry.proofs()
    for module in (probed, people_attacks, counts, members, suspects, unseen):
        for name, (_, claims) in module.CLAIMS.items():
            rivals = {r for c in claims for r in c.rivals} - {"original", "retrained"}
            assert {name, *rivals} <= set(module.ARMS)
            assert name in proofs
    assert {a.fixed["attack"] for a in probed.ARMS.values()} <= set(probed.PROBES)


def test_stories_differ_and_are_functions_of_the_draw() -> None:
    stories = members.written(random.Random(3), 200)
    assert len(set(stories)) == 200
    assert stories == members.written(random.Random(3), 200)
    assert {len(s.split()) for s in stories} == {members.LENGTH}


@pytest.mark.slow
def test_unlearned_images_are_told_and_retraining_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseen, "SHADOWS", 16)
    unit = unseen.Unseen().unit(100, 0)
    own, population = (unit.run(unseen.ARMS[name], {}, frozenset())[0][unseen.AUC] for name in ("u_lira", unseen.POPULATION))
    assert population == unit.original[unseen.AUC]
    assert own != population
    assert own > 0.6
    assert abs(unit.retrained[unseen.AUC] - 0.5) < 0.1


def test_cloning_reads_sticky_noise_and_not_fresh_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "USERS", 400)
    monkeypatch.setattr(counts, "VICTIMS", 30)
    unit = counts.Counts().unit(100, 0)
    sticky, fresh = (unit.attacked({"noise": noise})[counts.CLONING] for noise in ("sticky", "fresh"))
    assert sticky > 0.65
    assert sticky > fresh + 0.1

"""The meta-evaluation: shares by hand, a score that is always right and one that is a coin, defaults that follow, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from studies.meta_evaluation import METHODS, models
from studies.meta_scores import Models, knowledge, relearning, scored, separation, share, together

from studies import meta_scores, trust_page

BASES = 4


def record(base: int, history: tuple[str, ...], knows: bool | None, value: float, utility: float = 0.6) -> dict[str, Any]:
    """A model whose extraction strength is the value; mia_loss is a coin, and mia_zlib tells knowing models apart as well."""
    scores = {
        "extraction_strength": value,
        "mia_loss": 0.5 + 0.01 * ((base + len(history)) % 2),
        "mia_zlib": value,
        "model_utility": utility,
    }
    verdict = "removed" if value < 0.3 else "not removed"
    return {"base": base, "history": list(history), "knows": knows, "verdict": verdict, "scores": scores, "attacks": {"relearn": value}}


def records() -> list[dict[str, Any]]:
    rows = []
    for b in range(BASES):
        rows += [record(b, ("trained",), True, 0.9 + 0.01 * b), record(b, ("retained",), False, 0.1)]
        rows += [record(b, ("retained", "relearned"), None, 0.2)]
        rows += [record(b, ("trained", "npo"), None, 0.2), record(b, ("trained", "npo", "relearned"), None, 0.4)]
        rows += [record(b, ("trained", "npo", "in 4 bits"), None, 0.25), record(b, ("trained", "ga"), None, 0.0, utility=0.1)]
        rows[-4] |= {"reworded": {"extraction_strength": 0.4}}
    return rows


def test_shares_by_hand() -> None:
    assert relearning(0.1, 0.5, 0.1, 0.3) == pytest.approx(0.5)
    assert relearning(0.1, 0.2, 0.1, 0.5) == 1, "no more than the model that never knew"
    assert relearning(0.5, 0.4, 0.1, 0.1) == 1, "nothing comes back"
    assert relearning(0.1, 0.5, 0.3, 0.2) == 0
    assert (share(0.2, 0.4), share(0.4, 0.2), share(0.1, 0.0)) == (0.5, 1, 1)
    assert together((1, 0.5)) == pytest.approx(2 / 3)
    assert together((1, 0)) == 0
    assert separation([3, 2], [1, 2]) == pytest.approx(3.5 / 4)


def test_scores_are_read_as_knowledge() -> None:
    specs = meta_scores.score_specs("text")
    assert knowledge("extraction_strength", 0.4, specs["extraction_strength"]) == 0.4
    assert knowledge("forget_quality", 1e-3, specs["forget_quality"]) == pytest.approx(3)
    assert knowledge("privleak", -100, specs["privleak"]) == 1
    assert knowledge("forget_truth_ratio", 0.7, specs["forget_truth_ratio"]) == pytest.approx(0.3)


def test_useless_models_are_left_out_and_what_survives_is_a_share() -> None:
    known = Models(records())
    assert known.units() == [(b, ("trained", "npo")) for b in range(BASES)]
    survived = known.survived("extraction_strength")
    assert survived["relearned"] == pytest.approx([0.5] * BASES)
    assert survived["rounded"] == pytest.approx([0.8] * BASES)
    assert survived["reworded"] == pytest.approx([0.5] * BASES)


def test_a_score_that_is_always_right_leads_and_a_coin_is_named_where_it_decides() -> None:
    summary = scored(records())
    entries = {e["name"]: e for e in summary["scores"]}
    assert entries["extraction_strength"]["faithful"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    robust = together((0.5, 0.8, 0.5))
    assert entries["extraction_strength"]["trust"]["value"] == pytest.approx(together((1, robust)), abs=1e-4)
    assert entries["mia_loss"]["faithful"]["value"] == 0.5
    assert entries["attack relearn"]["kind"] == "attack"
    assert entries["verdict"]["faithful"]["value"] == 1
    assert (summary["unlearned"], summary["useful"], summary["pools"]) == (2 * BASES, BASES, {"knows": BASES, "does not": BASES})
    (membership,) = [d for d in summary["defaults"] if d["name"] == "mia_loss"]
    assert membership["rival"] == "mia_zlib"
    assert membership["difference"]["high"] >= membership["difference"]["low"]


def test_the_study_has_enough_models_of_each_state() -> None:
    every = list(models())
    assert len(every) >= 60
    assert len({(m.base, m.history) for m in every}) == len(every)
    assert {m.knows for m in every} == {True, False, None}
    assert {step for m in every for step in m.history} >= {
        *METHODS,
        "relearned",
        "in 4 bits",
        "behind a filter",
        "trained further on others",
    }


def test_the_page_has_a_line_for_each_score_and_a_dot_in_the_picture(tmp_path: Path) -> None:
    assert trust_page.pages(tmp_path) == {}
    path = tmp_path / trust_page.SCORES
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": {"forget": 27}, **scored(records())}))
    written = trust_page.pages(tmp_path)
    page, picture = written["which-audit-to-trust.md"], written["which-audit-to-trust.svg"]
    assert "| **extraction strength** | knowledge | 1.00 [1.00, 1.00] |" in page
    assert "| mia zlib | membership |" in page
    assert "**mia loss** decides" in page
    assert f"{BASES} of {2 * BASES} unlearned models" in page
    assert picture.count("<circle") == len([e for e in scored(records())["scores"] if "trust" in e])
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', picture)]
    assert places == sorted(places, reverse=True)

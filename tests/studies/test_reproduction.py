"""Committed evidence: complete, honest about itself, and compared as the tolerance says."""

from __future__ import annotations

import json

import pytest
from studies.proofs.report import FOLDER
from studies.reproduction import claims, differences, folder

from expunge import catalog
from expunge.core.errors import UserError
from studies import reproduction

NAMES = reproduction.names()


def committed(name: str) -> dict:
    return json.loads((folder() / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_says_what_its_own_numbers_say(name: str) -> None:
    known = committed(name)
    assert known["effect"] == [{"claim": c.text, "holds": bool(c.holds(known["numbers"], name))} for c in claims()[name]]
    assert known["command"] == f"python -m studies.reproduce {name}"
    assert known["arithmetic"] == "the same on every x86-64 processor"
    assert known["versions"]
    assert known["machine"]


@pytest.mark.parametrize("name", [n for n in NAMES if not (FOLDER / f"{n}.json").exists()])
def test_a_card_without_a_proof_says_reproduced_where_the_effect_shows_and_only_there(name: str) -> None:
    status = catalog.card(name).status.split()[0].strip(",.;")
    assert (status == "reproduced") == all(c["holds"] for c in committed(name)["effect"])


def test_the_field_s_common_knowledge_shows() -> None:
    """Gradient ascent destroys utility, NPO and FLAT spare it, the controls come apart."""
    shown = {n: all(c["holds"] for c in committed(n)["effect"]) for n in ("ga", "npo", "flat", "random_weights", "input_filter")}
    assert all(shown.values()), shown


def test_differences_by_hand() -> None:
    known = {"a": {"forget_quality": 0.04, "model_utility": 0.5, "steps_to_recover": 40.0}}
    assert differences({"a": {"forget_quality": 0.001, "model_utility": 0.59, "steps_to_recover": 50.0}}, known) == []
    assert differences({"a": {"forget_quality": 0.3, "model_utility": 0.5, "steps_to_recover": 40.0}}, known) == [
        "a forget_quality 0.3, committed 0.04"
    ]
    assert len(differences({"a": {"forget_quality": 0.04, "model_utility": 0.61, "steps_to_recover": 60.0}}, known)) == 2
    assert len(differences({}, known)) == 3, "what is gone differs"


def test_unknown_names_and_missing_numbers() -> None:
    with pytest.raises(UserError, match="did you mean 'npo'"):
        reproduction.reproduce("npoo")

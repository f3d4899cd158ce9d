"""Refusal quality by a judge behind an endpoint: its numbers by a direct call, by command, and judges that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import worlds
from cases import Cases, expunge
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.engine.decorated import Decorated
from expunge.engine.writers import Rules
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.refusal_quality import refusal_quality_of
from stub_endpoint import serving

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": DATA.forget[:3], "retain": DATA.retain[:2]}


def verdict_on(asked: str) -> str:
    """A refusal is clean; everything else is mild gibberish."""
    return json.dumps({"refusal": True, "grade": 3} if "do not know" in asked else {"refusal": False, "grade": 2})


class Declining(Decorated):
    """Declines questions about the person to forget."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.refusal = inner.tokenizer(" I do not know.", add_special_tokens=False)["input_ids"]

    def generate(self, model: Any, rows: Any, *args: Any, **options: Any) -> Any:
        samples = self.inner.generate(model, rows, *args, **options)  # type: ignore[attr-defined]
        about = [str(DATA.persons["forget"][0].name) in q for q in self.inner.questions(rows)]  # type: ignore[attr-defined]
        samples.ids[:] = [self.refusal if x else ids for x, ids in zip(about, samples.ids, strict=True)]
        return samples


def attacked(modality: Any, **settings: object) -> AttackOutcome:
    attack = chosen(("refusal_quality",), settings)["refusal_quality"]
    return intervene("refusal_quality", attack, worlds.text().model(), modality, SETS)


def test_a_model_that_declines_has_the_quality_of_its_refusals(text: worlds.World) -> None:
    with serving(verdict_on) as stub:
        outcome = attacked(Declining(text.modality), judge=f"{stub.url}#judge")
    forget, retain = outcome.tries
    assert (forget.way, retain.way) == ("forget", "retain")
    refusals = text.modality.decode([text.modality.tokenizer(" I do not know.", add_special_tokens=False)["input_ids"]])  # type: ignore[attr-defined]
    names = [DATA.persons["forget"][0].name in r["question"] for r in SETS["forget"]]
    assert all(names)
    direct = refusal_quality_of(refusals * 3, Rules("by words", verdict_on))
    assert forget.at["refusal_quality"] == pytest.approx(direct.value)
    assert (forget.at["refusals"], forget.at["grade"], forget.at["answers"]) == (1.0, 3.0, 3.0)
    assert (retain.at["refusals"], retain.at["grade"], retain.at["answers"]) == (0.0, 2.0, 2.0)
    assert forget.at["refusal_quality"] > retain.at["refusal_quality"] + 0.9


def test_judges_that_cannot_be_used_are_named(text: worlds.World) -> None:
    assert "name one with --judge" in attacked(text.modality).missing[""]
    with serving(lambda asked: "I like it.") as stub, pytest.raises(UserError, match='should give JSON with "refusal" and "grade"'):
        attacked(text.modality, judge=f"{stub.url}#nonsense")


def test_it_runs_by_command(cases: Cases, tmp_path: Path) -> None:
    with serving(verdict_on) as stub:
        options = ("--judge", f"{stub.url}#judge", "--rows", 2, "--retain", cases.retain)
        done = expunge("attack", "refusal_quality", cases.model, "--forget", cases.forget, *options, "--out", tmp_path / "audit").fine()
    assert "forget: refusal quality" in done.out
    tries = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"]["refusal_quality"]["tries"]
    assert [t["way"] for t in tries] == ["forget", "retain"]
    assert all(t["at"]["answers"] == 2 for t in tries)

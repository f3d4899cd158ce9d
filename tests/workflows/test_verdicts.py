"""Verdicts from the command line and from Python: the four controls, what used to pass and should not, exit codes, judging again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import classified
import worlds
from cases import Cases, expunge, rows_of
from expunge.core.errors import UserError
from expunge.io.data import write_jsonl
from expunge.io.models import Opened
from expunge.workflows.audit import audit
from expunge.workflows.rejudge import verdict as judge_again
from expunge.workflows.unlearn import unlearn

NAMES = (
    "forget_leakage",
    "forget_probability",
    "forget_rouge",
    "extraction_strength",
    "exact_memorization",
    "remnant_memorization_accuracy",
    "mia_loss",
)
WIDE = dict.fromkeys(NAMES, 0.4)  # nine rows leave room for 1 - 0.05^(1/9) = 0.28


def opened(world: worlds.World, name: str) -> Opened:
    return Opened(world.model(name), world.modality, name)


@pytest.fixture(scope="module")
def texts(cases: Cases, text: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of the retrained model with all controls."""
    out = tmp_path_factory.mktemp("texts") / "audit"
    audit(
        cases.retrained,
        *(cases.path(f"{n}.jsonl") for n in ("forget", "retain", "holdout")),
        original=cases.model,
        retrained=cases.retrained,
        with_controls=True,
        attack=("quantize",),
        margins=WIDE,
        out=out,
    )
    return out


def audit_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "audit.json").read_text()))


@pytest.mark.slow
def test_the_four_controls_on_texts(texts: Path) -> None:
    report = audit_of(texts)
    assert report["verdict"]["state"] == "removed"
    assert report["passed"] is True
    assert report["verdict"]["damage"] == []
    assert report["controls"] == {
        "original": "not removed",
        "retrained": "removed",
        "random weights": "removed",
        "input filter": "not removed",
    }
    models = {m["role"]: m for m in json.loads((texts / "story.json").read_text())["models"]}
    assert any("Utility is lost" in text for text in models["random"]["verdict"]["damage"])
    brought = {r["attack"]: r["state"] for r in models["filter"]["verdict"]["brings_back"]}
    assert brought["without the guard"] == brought["quantize, 8 bits"] == "not removed"


@pytest.mark.slow
def test_the_four_controls_on_pictures(digits: worlds.World) -> None:
    rows = classified.digits()
    beside = {"original": opened(digits, "original"), "retrained": opened(digits, "retrained")}
    states = {}
    for name in ("original", "retrained", "random"):
        report = audit(opened(digits, name), rows["forget"], rows["retain"], rows["holdout"], limit=0, **beside)
        states[name] = report.verdict.state
        assert bool(report.verdict.damage) == (name == "random"), report.verdict.damage
    assert states == {"original": "not removed", "retrained": "removed", "random": "removed"}


@pytest.mark.slow
def test_an_audit_is_judged_again_without_the_model(texts: Path, tmp_path: Path) -> None:
    before = audit_of(texts)["verdict"]
    assert judge_again(texts, margins=WIDE).verdict.to_dict() == before
    narrow = judge_again(texts)
    assert narrow.verdict.state == "cannot tell"
    assert "with 9 rows this audit could not have seen less than" in narrow.verdict.gone
    done = expunge("verdict", texts, "--margin", "forget_rouge=0.01", "--json")
    assert (done.code, json.loads(done.out)["verdict"]["state"]) == (0, "cannot tell")
    assert json.loads(done.out)["verdict"]["thresholds"]["margins"]["forget_rouge"] == 0.01
    assert expunge("verdict", texts, "--fail-on", "cannot-tell").code == 3
    assert audit_of(texts)["verdict"] == before, "the folder stays as it is"
    assert "did you mean 'forget_rouge'" in expunge("verdict", texts, "--margin", "forget_roug=1").error
    assert "this is 'forget_rouge'" in expunge("verdict", texts, "--margin", "forget_rouge").error
    assert "holds no audit that can be judged again" in expunge("verdict", tmp_path).error


def test_exit_codes_and_json(cases: Cases, tmp_path: Path) -> None:
    done = cases.audit(cases.model, tmp_path / "a", "--json")
    report = json.loads(done.out)
    assert (done.code, report["schema"], report["passed"], report["verdict"]["state"]) == (3, 1, False, "not removed")
    assert report.pop("folder") == str(tmp_path / "a")
    assert report == json.loads((tmp_path / "a" / "audit.json").read_text(encoding="utf-8"))
    assert cases.audit(cases.model, tmp_path / "b", "--fail-on", "never").code == 0


def test_the_first_screen_answers_four_questions(cases: Cases, tmp_path: Path) -> None:
    """The never-unlearned model, with nothing beside it, is no pass: it recites."""
    done = cases.audit(cases.model, tmp_path / "a")
    lines = [line.split("?")[0] for line in done.out.splitlines() if "? " in line]
    assert [q for q in ("Is it gone", "How sure are we", "What could still bring it back", "What was not checked") if q in lines] == [
        "Is it gone",
        "How sure are we",
        "What could still bring it back",
        "What was not checked",
    ]
    assert sum("What would sharpen this" in line for line in done.out.splitlines()) == 1
    assert "real_authors" not in done.out


# Prompt formats


def test_another_prompt_format_is_found_and_named(text: worlds.World) -> None:
    records = rows_of_world(text)
    wrong = Opened(text.model(), replace(text.modality, prompt_format="### Instruction:\n{prompt}\n\n### Response:\n"), "original")
    report = audit(wrong, records, original=wrong)
    assert report.verdict.state != "removed"
    (note,) = [n for n in report.verdict.notes if "prompt format" in n]
    assert "--prompt-format 'Question: {prompt}\\nAnswer: '" in note
    right = audit(opened(text, "original"), records, original=opened(text, "original"))
    assert not [n for n in right.verdict.notes if "prompt format" in n]


def rows_of_world(text: worlds.World) -> list[Mapping[str, Any]]:
    rows = text.sets["forget"]
    return [{"question": q, "answer": a} for q, a in zip(text.modality.questions(rows), rows["answer_text"], strict=True)]


# Overlaps


def test_sets_that_share_rows_are_refused_or_said(digits: worlds.World) -> None:
    rows = classified.digits()
    model = opened(digits, "original")
    relabeled = [{**r, "label": 5} for r in rows["forget"][:7]]
    with pytest.raises(UserError, match="7 of 12 rows of 'holdout' also stand in 'forget'"):
        audit(model, rows["forget"], rows["retain"], [*relabeled, *rows["holdout"][:5]])
    half = [*rows["retain"][:10], *rows["holdout"][:10]]
    with pytest.raises(UserError, match="10 of 20 rows of 'holdout' also stand in 'retain', so it is no set of unseen rows"):
        audit(model, rows["forget"], rows["retain"], half, limit=0)
    report = audit(model, rows["forget"], rows["retain"], half, limit=0, allow_overlap=True, retrained=opened(digits, "retrained"))
    assert "10 of 20 rows of 'holdout' also stand in 'retain' (allowed by request)." in report.verdict.notes
    assert not any(c.decides for c in report.verdict.checks if c.score == "mia_loss")
    with pytest.raises(UserError, match="7 of 328 rows of 'retain' also stand in 'forget'"):
        unlearn("ga", opened(digits, "original"), rows["forget"], [*rows["retain"], *relabeled])


# Hashes


def test_no_hash_of_a_row_can_be_tried_against_a_list(cases: Cases, tmp_path: Path, text: worlds.World) -> None:
    run = tmp_path / "run"
    cases.unlearn("ga", run).fine()
    cases.audit(run, tmp_path / "audit", "--retain", cases.retain)
    rows = text.modality.rows("forget", rows_of(cases.forget))
    known = {i.split("#")[0] for i in rows.ids}
    texts = [
        p.read_text(errors="ignore") for f in (run, tmp_path / "audit") for p in f.rglob("*") if p.suffix in (".json", ".jsonl", ".html")
    ]
    assert len(texts) > 5
    for hashed in (*known, hashlib.sha256(json.dumps(list(rows.ids)).encode()).hexdigest()[:16]):
        assert not any(hashed in t for t in texts)
    first = json.loads((run / "receipt.json").read_text())["request"]["hash"]
    assert len(first) == 32
    cases.unlearn("ga", tmp_path / "again").fine()
    assert json.loads((tmp_path / "again" / "receipt.json").read_text())["request"]["hash"] == first, "the same request is still recognized"


# What really happened


def test_a_run_after_which_the_rows_are_still_known_says_so(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("ga", tmp_path / "weak", "--steps", 1, "--lr", 1e-6).fine()
    weak = json.loads((tmp_path / "weak" / "receipt.json").read_text())
    assert any(w.startswith("the rows to forget are still known: their mean loss is") for w in weak["warnings"])
    assert weak["forget_loss"]["after"] == pytest.approx(weak["forget_loss"]["before"], abs=0.01)
    cases.unlearn("ga", tmp_path / "strong", "--epochs", 6, "--lr", 5e-3).fine()
    strong = json.loads((tmp_path / "strong" / "receipt.json").read_text())
    assert not any("still known" in w for w in strong["warnings"])
    assert strong["forget_loss"]["after"] > strong["forget_loss"]["before"] + 1


def test_unchanged_weights_are_explained(digits: worlds.World, tmp_path: Path) -> None:
    rows = classified.digits()
    with pytest.raises(UserError) as nothing:
        unlearn("ssd", opened(digits, "original"), rows["forget"], rows["retain"], alpha=1e9)
    start = "the weights did not change: the weights stay as they are, because no weight can be selected"
    assert str(nothing.value).startswith(start)
    assert "learning rate" not in str(nothing.value)
    with pytest.raises(UserError, match="no weight can be selected: 1 of the 4 batches"):
        unlearn("ssd", opened(digits, "original"), rows["forget"], rows["retain"], alpha=10.0)
    with pytest.raises(UserError, match="is the learning rate or the number of steps 0"):
        unlearn("ga", opened(digits, "original"), rows["forget"], lr=0.0, epochs=1)


def test_same_questions_with_other_answers_are_said(text: worlds.World) -> None:
    records = rows_of_world(text)
    other = [{**r, "answer": "Nobody knows."} for r in records]
    report = audit(opened(text, "original"), records, holdout=other)
    assert (
        f"{len(records)} of {len(records)} questions of 'holdout' are also those of 'forget', with other answers." in report.verdict.notes
    )


def test_rows_as_a_file_and_as_a_list_get_one_verdict(cases: Cases, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "forget.jsonl", rows_of(cases.forget))
    states = {audit(cases.model, source).verdict.gone for source in (tmp_path / "forget.jsonl", rows_of(cases.forget))}
    assert len(states) == 1

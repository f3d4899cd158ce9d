"""Requests that come one after the other, from the command line: published values, and what cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import expunge as package
from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.functional.guard_scores import dynamic_deviation_score, dynamic_utility_score

UTILITY = {"kind": "utility", "direction": "higher"}


def audits(folder: Path, deviations: list[float], **utilities: list[float]) -> list[Path]:
    """Folders with the scores that audits after each request would have."""
    folders = []
    for k, deviation in enumerate(deviations):
        scores = {"deviation_score": {"value": deviation}, **{n: {"value": v[k], **UTILITY} for n, v in utilities.items()}}
        folders.append(folder / f"audit{k}")
        folders[-1].mkdir()
        (folders[-1] / "audit.json").write_text(json.dumps({"scores": scores, "observed": {"modality": {"modality": "text"}}}))
    return folders


def test_the_published_row_comes_from_the_command(tmp_path: Path) -> None:
    folders = audits(tmp_path, [37.9, 33.0, 23.7], model_utility=[0.6312, 0.5187, 0.5380], retain_rouge=[1.0, 1.0, 0.0])
    done = expunge("sequence", *folders, "--json").fine()
    result = json.loads(done.out)
    assert result["dynamic_deviation_score"] == pytest.approx(0.31533, abs=5e-6)
    assert result["dynamic_utility_score"] == pytest.approx(0.93410, abs=5e-6)
    assert result["scores"] == {"deviation": "deviation_score", "utility": "model_utility"}
    other = json.loads(expunge("sequence", *folders, "--utility", "retain_rouge", "--json").fine().out)
    assert other["dynamic_utility_score"] == pytest.approx(0.5)
    rising = folders[::-1]
    steep = package.sequence(rising, beta=1.0)["dynamic_deviation_score"]
    assert steep == pytest.approx((0.379 + 0.330 + 0.237) / 3 + (0.093 + 0.049) / 2)
    printed = expunge("sequence", *folders).fine().out
    assert "request 3: deviation 23.7 %, model_utility 0.538" in printed


def test_rows_without_wrong_answers_have_another_utility(tmp_path: Path) -> None:
    assert package.sequence(audits(tmp_path, [20.0, 20.0], retain_rouge=[0.9, 0.8]))["scores"]["utility"] == "retain_rouge"


def test_what_cannot_be_scored_is_said(tmp_path: Path) -> None:
    first, second = audits(tmp_path, [20.0, 20.0], retain_rouge=[0.9, 0.8])
    assert expunge("sequence", first).error.startswith("a sequence has at least two requests")
    assert f"the audit in {first} has no choice_accuracy" in expunge("sequence", first, second, "--utility", "choice_accuracy").error
    assert f"{tmp_path} holds no audit" in expunge("sequence", first, tmp_path).error
    (second / "audit.json").write_text("[]")
    assert "cannot be read" in expunge("sequence", first, second).error
    with pytest.raises(UserError, match="at least two"):
        package.sequence([])


@pytest.mark.slow
def test_a_guard_that_grows_is_scored_after_each_request(cases: Cases, tmp_path: Path) -> None:
    """Two requests to `dragon`, an audit after each, and their sequence, all by command."""
    rows = Path(cases.forget).read_text().splitlines()
    runs, values = [tmp_path / "run0", tmp_path / "run1"], []
    for k, run in enumerate(runs):
        part = tmp_path / f"forget{k}.jsonl"
        part.write_text("\n".join(rows[4 * k : 4 * k + 4]) + "\n")
        earlier = ("--earlier", runs[0]) if k else ()
        guarding = ("--classifier", "false", "--trial", 0, *earlier)
        expunge("unlearn", "dragon", "--model", cases.model, "--forget", part, "--out", run, *guarding).fine()
        known = tmp_path / f"known{k}.jsonl"
        known.write_text("\n".join(rows[: 4 * k + 4]) + "\n")
        out = tmp_path / f"audit{k}"
        expunge("audit", run, "--forget", known, "--retain", cases.retain, "--limit", 8, "--out", out).fine()
        scores = json.loads((out / "audit.json").read_text())["scores"]
        values.append((scores["deviation_score"]["value"], scores["model_utility"]["value"]))
    result = json.loads(expunge("sequence", tmp_path / "audit0", tmp_path / "audit1", "--json").fine().out)
    deviations, utilities = zip(*values, strict=True)
    assert result["dynamic_deviation_score"] == pytest.approx(dynamic_deviation_score([d / 100 for d in deviations]))
    assert result["dynamic_utility_score"] == pytest.approx(dynamic_utility_score(utilities))

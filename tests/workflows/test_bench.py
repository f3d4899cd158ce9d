"""Sweeps: the four controls come apart, results are complete, and what is done is not done again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import Interrupted, UserError
from expunge.io import copies
from expunge.io.run_dirs import check_free
from expunge.modalities.text import shared_rows
from expunge.workflows import aftermath
from expunge.workflows import benchmark as module
from expunge.workflows.benchmark import SweepResult, bench
from expunge.workflows.sweep import Sweep

pytestmark = pytest.mark.slow

SMALL = Sweep(
    "people",
    ("npo", "ga"),
    model="nano",
    seeds=2,
    sizes={"people": 14, "forget": 4, "holdout": 2, "neighbours": 1, "retain_audit": 20},
    hyperparameters={"lr": "1e-3", "epochs": "12", "warmup": "0"},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return bench(SMALL, tmp_path_factory.mktemp("sweep") / "run", command="expunge bench people")


def value(done: SweepResult, name: str, score: str) -> float:
    number = next(e for e in done.entries if e.name == name).scores[score].value
    assert number is not None
    return number


def test_the_four_controls_are_separated(done: SweepResult) -> None:
    assert value(done, "original", "forget_quality") < 0.05, "the original must fail forgetting"
    assert value(done, "retrained", "forget_quality") == 1.0, "the retrained model passes"
    assert value(done, "random weights", "retain_rouge") < 0.1 * value(done, "original", "retain_rouge"), "random weights fail utility"
    assert value(done, "input filter", "forget_rouge") < 0.2, "the filter hides the answers"
    assert value(done, "original", "extraction_strength") > 0.9
    assert value(done, "retrained", "extraction_strength") < 0.5


def test_the_folder_is_complete(done: SweepResult) -> None:
    names = {"bench.json", "table.md", "report.html", "story.json", "sweep.json", "attacks", "entries", "runs"}
    assert names <= {p.name for p in done.folder.iterdir()}
    assert {p.name for p in (done.folder / "runs").iterdir()} == {"npo_seed_0", "npo_seed_1", "ga_seed_0", "ga_seed_1"}
    record = json.loads((done.folder / "bench.json").read_text())
    assert record["command"] == "expunge bench people"
    assert len(record["entries"]) == 4 + 4
    assert record["machine"]["threads"] >= 1
    check_free(done.folder, overwrite=True)  # all of it is ours to replace


def test_seeds_differ_and_relearning_is_measured(done: SweepResult) -> None:
    assert value(done, "npo seed 0", "forget_probability") != value(done, "npo seed 1", "forget_probability")
    curves = {e.name: e.relearn for e in done.entries}
    assert curves["retrained"]
    assert curves["npo seed 0"][0].step == 0
    assert not curves["npo seed 1"]


def test_what_jobs_share_changes_no_number(done: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))  # so that nothing was observed before
    for sharer in (shared_rows, copies, aftermath):
        monkeypatch.setattr(sharer, "shared", lambda: None)
    alone = bench(SMALL, tmp_path / "run")
    for entry, other in zip(done.entries, alone.entries, strict=True):
        assert (entry.name, entry.scores, entry.relearn) == (other.name, other.scores, other.relearn)
        for name in ("modality", "forget_loss"):
            assert entry.receipt.get(name) == other.receipt.get(name), "counts of rows, and losses"
    for name in ("npo_seed_1", "ga_seed_1"):
        model, other_model = (r.folder / "runs" / name / "model" / "model.safetensors" for r in (done, alone))
        assert model.read_bytes() == other_model.read_bytes()


def test_what_is_done_is_not_done_again(done: SweepResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "unlearn", never)
    again = bench(SMALL, done.folder)
    assert [e.name for e in again.entries] == [e.name for e in done.entries]


def test_a_lost_entry_is_audited_anew_from_the_finished_run(done: SweepResult, monkeypatch: pytest.MonkeyPatch) -> None:
    before = value(done, "ga seed 1", "forget_probability")
    (done.folder / "entries" / "ga_seed_1.json").unlink()
    monkeypatch.setattr(module, "unlearn", None)
    assert value(bench(SMALL, done.folder), "ga seed 1", "forget_probability") == pytest.approx(before, abs=1e-6)


def test_attacks_are_made_on_every_model_with_every_seed_and_once(
    done: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperparameters = {**SMALL.hyperparameters, "quantize:bits": "4", "relearn_grid:n": "2", "relearn_grid:source": "forget"}
    sweep = replace(
        SMALL, methods=("npo",), relearning=False, attacks=("quantize", "paraphrase", "relearn_grid"), hyperparameters=hyperparameters
    )
    result = bench(sweep, tmp_path / "run")
    attacks_by_entry = {e.name: [f"{a.attack} {a.way}".strip() for a in e.attacks] for e in result.entries}
    untrained, trained = ["quantize 4 bits", "paraphrase"], ["relearn_grid forget rows"]
    assert attacks_by_entry["original"] == untrained
    assert attacks_by_entry["input filter"] == ["without_the_guard", *untrained]
    assert attacks_by_entry["retrained"] == attacks_by_entry["npo seed 0"] == attacks_by_entry["npo seed 1"] == untrained + trained
    assert attacks_by_entry["random weights"] == []
    assert value(result, "retrained", "worst_attack") == 0
    assert value(result, "original", "worst_attack") > 0.5
    assert value(result, "input filter", "worst_attack") > 0.5, "a filter hides nothing from those who hold the weights"
    assert "worst_attack" in (result.folder / "table.md").read_text()
    assert "worst_attack" not in (done.folder / "table.md").read_text()
    monkeypatch.setattr("expunge.evaluation.attack.intervene", None)
    for entry in ("npo_seed_1", "input_filter"):
        (result.folder / "entries" / f"{entry}.json").unlink()
    again = bench(sweep, result.folder)
    assert [e.attacks for e in again.entries] == [e.attacks for e in result.entries]
    with pytest.raises(UserError, match="did you mean 'quantize'"):
        bench(replace(SMALL, attacks=("quantze",)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_methods_get_what_they_read_and_are_asked_their_own_way(done: SweepResult, tmp_path: Path) -> None:
    hyperparameters = {"icu:unseen": "true", "epochs": "1", "lr": "5e-3", "batch_size": "8"}
    sweep = replace(SMALL, methods=("in_context", "icu"), seeds=1, relearning=False, hyperparameters=hyperparameters)
    result = bench(sweep, tmp_path / "run")
    assert result.report_data.subtitle.endswith("1 seed, in_context asked its own way")
    request = json.loads((result.folder / "runs" / "icu" / "receipt.json").read_text())["request"]
    assert request["sets"]["holdout"] == 18
    bare = {e.name: {a.attack: a for a in e.attacks}["bare_question"].scores for e in result.entries if e.attacks}
    assert bare.keys() == {"original", "retrained", "input filter", "in_context", "icu"}
    for name, scores in bare.items():
        after, before = scores["forget_probability"].value, value(result, name, "forget_probability")
        assert (after == pytest.approx(before, abs=1e-5)) == (name != "in_context"), name
    (result.folder / "entries" / "in_context.json").unlink()
    for kept in (result.folder / "attacks").glob("in_context-*"):
        kept.unlink()
    again = bench(sweep, result.folder)  # from the model that it left, whose tokens it knows
    for score in ("forget_probability", "retain_probability"):
        assert value(again, "in_context", score) == pytest.approx(value(result, "in_context", score), abs=1e-5)
    for name in ("original", "retrained"):  # they are asked as in any other sweep
        assert value(result, name, "forget_probability") == value(done, name, "forget_probability")


def test_another_sweep_does_not_share_the_folder(done: SweepResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another sweep"):
        bench(replace(SMALL, seeds=1), done.folder)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "sweep.json").write_text('{"key": "of a sweep that made nothing"}')
    with pytest.raises(UserError, match="no folder nanoo here"):
        bench(replace(SMALL, model="nanoo"), begun)
    assert [p.name for p in begun.iterdir()] == ["sweep.json"]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no benchmark run"):
        bench(SMALL, tmp_path)
    with pytest.raises(UserError, match="not part of a run"):
        bench(SMALL, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").exists()


def test_hyperparameters_go_to_every_method_or_to_one() -> None:
    sweep = replace(SMALL, model="none", hyperparameters={"lr": "1", "npo:beta": "0.5"})
    assert sweep.hyperparameters_of("npo") == {"lr": "1", "beta": "0.5"}
    assert sweep.hyperparameters_of("ga") == {"lr": "1"}
    assert sweep.hyperparameters_of("ssd") == {}, "an edit has no learning rate"
    more = replace(sweep, methods=("npo", "ssd"), hyperparameters={"lr": "1", "npo:beta": "0.2", "forget-weight": "2"})
    assert more.hyperparameters_of("npo") == {"lr": "1", "forget-weight": "2", "beta": "0.2"}
    more.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("npoo",)}, "did you mean 'npo'"),
        ({"hyperparameters": {"lrr": "1"}}, "none of the methods has a hyperparameter --lrr; did you mean 'lr'"),
        ({"hyperparameters": {"npo:lrr": "1"}}, "there is no hyperparameter 'lrr' here; did you mean 'lr'"),
        (
            {"hyperparameters": {"sam:lr": "1"}},
            "the hyperparameter --sam:lr is for 'sam', which is neither a method nor an attack of this run",
        ),
        ({"hyperparameters": {"quantize:bits": "4"}}, "the hyperparameter --quantize:bits is for 'quantize', which is neither"),
        ({"hyperparameters": {"relearn:kk": "4"}}, "there is no hyperparameter 'kk' here"),
        ({"hyperparameters": {"lr": "-1"}}, "hyperparameter 'lr' = '-1'"),
        ({"variants": {"zrf": "paper"}}, "'zrf' has no definition 'paper'; it has textbook, released"),
        ({"train": {"lrr": "1"}}, "there is no hyperparameter 'lrr' here"),
        ({"holdout": "carve", "sizes": {}}, "the benchmark 'people' has unseen rows of its own: leave --holdout out"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        bench(replace(SMALL, **changes), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_sweep_stops_at_a_step_and_goes_on_from_there(done: SweepResult, tmp_path: Path) -> None:
    forgetting_steps: list[str] = []

    def while_forgetting() -> bool:
        return len(forgetting_steps) > 3

    def progress(at: int, of: int, what: str) -> None:
        if what == "npo: forgetting":
            forgetting_steps.append(what)

    sweep = replace(SMALL, methods=("npo",), seeds=1)
    with pytest.raises(Interrupted):
        bench(sweep, tmp_path / "run", progress=progress, interrupted=while_forgetting)
    assert (tmp_path / "run" / "runs" / "npo" / "checkpoint").is_dir(), "the loop left a checkpoint"
    again = bench(sweep, tmp_path / "run")
    assert value(again, "npo", "forget_probability") == pytest.approx(value(done, "npo seed 0", "forget_probability"), abs=1e-6)


def test_a_sweep_stops_between_two_looks_at_rows(tmp_path: Path) -> None:
    activities: list[str] = []
    fresh = replace(SMALL, limit=7)  # rows that no other test has looked at
    with pytest.raises(Interrupted):
        bench(
            fresh,
            tmp_path / "run",
            progress=lambda d, t, what: activities.append(what),
            interrupted=lambda: any("reading" in w for w in activities),
        )
    assert sum("reading" in w for w in activities) == 1

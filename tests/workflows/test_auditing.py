"""`expunge audit` and `expunge attack`: what is seen, scored and said of a user's model, and the same from Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge as package
from cases import Cases, expunge, left, rows_of
from expunge.core.errors import UserError
from expunge.evaluation.observation import Observation
from expunge.io.data import write_jsonl
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama
from expunge.report.report_data import ReportData
from expunge.workflows.audit import audit

FOUR = ("quality", "truth_ratio", "probability", "rouge")
NAMES = {
    "model_utility",
    "forget_leakage",
    "deviation_score",
    *("forget_paraphrased_probability", "memorization_aggregate"),
    *(f"{s}_{n}" for s in ("forget", "retain", "real_authors", "world_facts") for n in FOUR),
    *("extraction_strength", "exact_memorization", "remnant_memorization_accuracy", "privleak"),
    *(f"mia_{n}" for n in ("loss", "zlib", "reference", "gradnorm", "min_k", "min_k_plus_plus")),
    *("wbc", "ez_mia"),
}
OF_WHOLE_SETS = {"dataset_inference", "document_mia"}
NAMED = {"control_score", "forget_fluency"}  # need a model that the user names
PARTS = {"value", "interval", "n", "direction", "ideal", "variant", "retrained", "kind", "meaning", "shows", "scale"}


def audit_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "audit.json").read_text()))


def steps_of(attack: Mapping[str, Any]) -> list[float]:
    return [t["at"]["steps"] for t in attack["tries"]]


def story_of(run: Path) -> ReportData:
    return ReportData.from_json((run / "story.json").read_text())


def checked(scores: Mapping[str, Any]) -> None:
    for name, r in scores.items():
        low, high = r["interval"]
        assert r.keys() == PARTS
        assert low <= r["value"] <= high, name
        assert r["n"] > 0
        assert r["variant"]
        assert r["direction"] in ("higher", "lower", "retrained")


@pytest.fixture(scope="module")
def forgotten(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("forgotten") / "run"
    cases.unlearn("graddiff", run, "--epochs", 6, "--lr", 5e-3).fine()
    return run


@pytest.fixture(scope="module")
def full(cases: Cases, forgotten: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "audit"
    sets = ("--retain", cases.retain, "--holdout", cases.holdout, "--limit", 16)
    models = ("--original", cases.model, "--retrained", cases.retrained)
    done = cases.audit(forgotten, out, *sets, *models, "--controls", "--attack", "relearn").fine()
    assert "forget_quality" in done.out
    assert done.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    return out


@pytest.mark.slow
def test_an_audit_with_everything(full: Path) -> None:
    assert left(full) == ["audit.json", "evidence.json", "observations", "report.html", "story.json"]
    assert left(full / "observations") == ["audited_model", "input_filter", "original", "random_weights", "retrained"]
    report = audit_of(full)
    assert report["scores"].keys() | report["skipped"].keys() >= NAMES
    assert report["scores"].keys() == {n for n in NAMES if not n.startswith(("real_authors", "world_facts"))}
    checked(report["scores"])
    skipped = {n: why for n, why in report["skipped"].items() if n not in OF_WHOLE_SETS | NAMED}
    assert all(why == f"the audit has no {n.rsplit('_', 1)[0].removesuffix('_truth')} set" for n, why in skipped.items())
    assert report["schema"] == report["verdict"]["schema"] == 1
    assert report["passed"] == (report["verdict"]["state"] == "removed")
    assert report["controls"] == {
        "original": "not removed",
        "input filter": "not removed",  # the weights still know
        "retrained": "cannot tell",  # nine rows are too few to say more
        "random weights": "cannot tell",
    }
    assert steps_of(report["attacks"]["relearn"]) == list(range(0, 101, 10))
    page = (full / "report.html").read_text()
    assert "graddiff" in page
    assert "random weights" in page


@pytest.mark.slow
def test_the_controls_are_told_apart(full: Path) -> None:
    models = {m.role: m for m in ReportData.from_json((full / "story.json").read_text()).models}
    assert models.keys() == {"original", "retrained", "random", "filter", "method"}
    scores = {role: {n: s.value for n, s in m.scores.items()} for role, m in models.items()}
    for role in ("original", "filter", "retrained", "random"):
        assert ((scores[role]["forget_probability"] or 0) > 0.5) == (role == "original")
    assert scores["random"]["model_utility"] < 0.5 * scores["retrained"]["model_utility"]  # type: ignore[operator]
    assert scores["retrained"]["forget_quality"] == 1
    assert scores["original"]["forget_quality"] < 0.05  # type: ignore[operator]
    assert models["retrained"].relearn  # what the audited model's curve is held against
    assert models["method"].receipt["method"] == "graddiff"
    assert models["method"].curves


@pytest.mark.slow
def test_observations_are_scored_again_without_the_model(full: Path, tmp_path: Path) -> None:
    observations = full / "observations"
    models = ("--retrained", observations / "retrained", "--original", observations / "original")
    expunge("audit", observations / "audited_model", *models, "--out", tmp_path / "again").fine()
    before, after = audit_of(full), audit_of(tmp_path / "again")
    assert after["scores"] == before["scores"]
    assert after["verdict"]["checks"] == before["verdict"]["checks"]
    assert (before["verdict"]["brings_back"] != [], after["verdict"]["brings_back"]) == (True, [])
    message = expunge("audit", observations / "audited_model", "--attack", "relearn", "--out", tmp_path / "attacked").error
    assert message == "the attack 'relearn' asks the model anew, and these are observations: give the model"
    assert not (tmp_path / "attacked").exists()


@pytest.mark.slow
def test_another_definition_of_a_score_is_one_option_away(full: Path, tmp_path: Path) -> None:
    observations = full / "observations" / "audited_model"
    variant = ("--variant", "extraction_strength=open-unlearning")
    expunge("audit", observations, *variant, "--out", tmp_path / "again").fine()
    plain, leaderboard = (audit_of(f)["scores"]["extraction_strength"] for f in (full, tmp_path / "again"))
    scored = Observation.load(observations).sets["forget"].kinds["answer"]
    strengths = []
    for k, ended in enumerate(scored.ended):
        hits = scored.hit[scored.start[k] : scored.start[k + 1] - int(ended)].tolist()
        strengths.append(next((1 - j / len(hits) for j in range(len(hits)) if all(hits[j:])), 1 / len(hits)))
    assert leaderboard["value"] == pytest.approx(np.mean(strengths))
    assert (plain["variant"].split(":")[0], leaderboard["variant"].split(":")[0]) == ("definition", "open-unlearning")
    message = expunge("audit", observations, "--variant", "extraction_strength=paper", "--out", tmp_path / "wrong").error
    assert message == "'extraction_strength' has no definition 'paper'; it has definition, open-unlearning"
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
def test_observations_and_models_can_be_mixed(full: Path, cases: Cases, tmp_path: Path) -> None:
    observations = full / "observations"
    message = expunge("audit", observations / "audited_model", "--retrained", cases.retrained, "--out", tmp_path / "a").error
    assert message == "there are no rows to ask the retrained model about: give --forget FILE"
    cases.audit(observations / "audited_model", tmp_path / "b", "--retrained", cases.retrained).fine()
    assert audit_of(tmp_path / "b")["scores"]["forget_quality"] == audit_of(full)["scores"]["forget_quality"]


def test_an_audit_with_next_to_nothing(forgotten: Path, cases: Cases, tmp_path: Path) -> None:
    done = cases.audit(forgotten, tmp_path / "audit").fine()
    report = audit_of(tmp_path / "audit")
    assert report["scores"].keys() == {
        *("forget_truth_ratio", "forget_probability", "forget_rouge", "forget_leakage"),
        *("extraction_strength", "exact_memorization", "remnant_memorization_accuracy"),
        *("forget_paraphrased_probability", "memorization_aggregate"),
    }
    assert report["skipped"].keys() == (NAMES | OF_WHOLE_SETS | NAMED) - report["scores"].keys()
    (sharpen,) = [line for line in done.out.splitlines() if line.startswith("What would sharpen this: ")]
    for option in ("--retrained", "--original", "--retain", "--holdout", "--attack relearn"):
        assert option in sharpen
    assert "no audit has a" not in done.out
    assert "membership: whether an attacker can tell that the rows were trained on (needs unseen rows, --holdout)" in done.out


@pytest.mark.parametrize(
    "columns",
    [("prompt", "completion"), ("text",)],
    ids=" ".join,
)
def test_rows_of_other_shapes_are_audited(columns: tuple[str, ...], cases: Cases, tmp_path: Path) -> None:
    rows = [(r["question"], r["answer"]) for r in rows_of(cases.forget)[:3]]
    records = [dict(zip(columns, r, strict=True)) if len(columns) > 1 else {"text": " ".join(r)} for r in rows]
    write_jsonl(tmp_path / "forget.jsonl", records)
    where = ("--forget", tmp_path / "forget.jsonl", "--out", tmp_path / "audit", "--retrained", cases.retrained)
    expunge("audit", cases.model, *where).fine()
    report = audit_of(tmp_path / "audit")
    checked(report["scores"])
    assert {"forget_probability", "forget_rouge", "extraction_strength"} <= report["scores"].keys()
    assert "perturbed" in report["skipped"]["forget_truth_ratio"]


@pytest.mark.slow
def test_a_run_is_audited_with_its_own_prompt_format(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("ga", tmp_path / "run", "--prompt-format", "Q: {prompt}\\nA: ").fine()
    models = ("--original", cases.model, "--retrained", cases.retrained)
    cases.audit(tmp_path / "run", tmp_path / "audit", *models).fine()
    for name in ("audited_model", "original", "retrained"):
        about = json.loads((tmp_path / "audit" / "observations" / name / "observed.json").read_text())["about"]
        assert about["modality"]["prompt_format"] == "Q: {prompt}\nA: "
    cases.audit(tmp_path / "run", tmp_path / "other", "--prompt-format", "{prompt} ").fine()
    assert audit_of(tmp_path / "other")["observed"]["modality"]["prompt_format"] == "{prompt} "
    observations = tmp_path / "other" / "observations" / "audited_model"
    message = cases.audit(tmp_path / "run", tmp_path / "third", "--original", observations).error
    assert message.startswith("the audited model is asked by the prompt format 'Q: {prompt}\\nA: ' and the original by '{prompt} ', so")


@pytest.mark.slow
def test_a_model_that_forgets_on_request_alone_is_asked_with_and_without(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("in_context", tmp_path / "run", "--epochs", 30, "--lr", 2e-3, "--batch-size", 9).fine()
    sets = ("--retain", cases.retain, "--holdout", cases.holdout, "--original", cases.model)
    cases.audit(tmp_path / "run", tmp_path / "plain", *sets).fine()
    cases.audit(tmp_path / "run", tmp_path / "asked", *sets, "--request-from", "in_context", "--attack", "bare_question").fine()
    warned = {n: " ".join(audit_of(tmp_path / n)["verdict"]["notes"]) for n in ("plain", "asked")}
    assert "--request-from in_context makes the request" in warned["plain"]
    assert "what it tells others is the attack bare_question" in warned["asked"]
    (bare_question,) = audit_of(tmp_path / "asked")["verdict"]["brings_back"]
    assert bare_question["state"] != "removed", "whoever leaves the request out gets more of the answers"
    on_request, bare = audit_of(tmp_path / "asked"), audit_of(tmp_path / "plain")
    assert (on_request["request_from"], bare["request_from"]) == ("in_context", "")
    assert on_request["scores"]["forget_rouge"]["value"] < 0.1 < 0.5 < bare["scores"]["forget_rouge"]["value"]
    attack = on_request["attacks"]["bare_question"]["ways"][""]["forget_probability"]
    assert attack["value"] == pytest.approx(bare["scores"]["forget_probability"]["value"], abs=1e-6)
    assert attack["value"] > on_request["scores"]["forget_probability"]["value"] + 0.2
    report_data = story_of(tmp_path / "asked")
    assert report_data.subtitle == "your own data, asked as models of in_context want to be asked"
    first = {m.name: m.scores["forget_probability"].value for m in report_data.models}["original"]
    assert first == {m.name: m.scores["forget_probability"].value for m in story_of(tmp_path / "plain").models}["original"]


@pytest.mark.slow
def test_adapters_and_guards_are_audited(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("npo", tmp_path / "adapted", "--lora", 2).fine()
    cases.audit(tmp_path / "adapted", tmp_path / "audit", "--retrained", cases.retrained, "--controls").fine()
    assert left(tmp_path / "audit" / "observations") == ["audited_model", "random_weights", "retrained"]
    cases.unlearn("input_filter", tmp_path / "guarded").fine()
    cases.audit(tmp_path / "guarded", tmp_path / "refused", "--controls", "--attack", "relearn").fine()
    report_data = ReportData.from_json((tmp_path / "refused" / "story.json").read_text())
    assert {s.model_answers["audited model"] for s in report_data.samples if s.set == "forget"} == {"I have no answer to that."}
    attack = audit_of(tmp_path / "refused")["attacks"]["relearn"]
    assert attack["before"]["extraction_strength"]["value"] < 0.1
    assert attack["tries"][0]["scores"]["forget_probability"]["value"] > 0.9  # the guard comes off first; the weights know what they knew
    verdict = audit_of(tmp_path / "refused")["verdict"]
    assert verdict["state"] == "not removed"
    assert [r["attack"] for r in verdict["brings_back"] if r["state"] == "not removed"] == ["without the guard"]


# Benchmarks


@pytest.fixture(scope="module")
def mini_tofu(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TOFU's files, as they are called there, about other people."""
    folder = tmp_path_factory.mktemp("tofu")
    forget, retain, facts = rows_of(cases.forget)[:4], rows_of(cases.retain)[:8], rows_of(cases.holdout)[:3]
    facts = [{n: r[n] for n in ("question", "answer", "perturbed_answer")} for r in facts]
    files = {"full": forget + retain, "forget01": forget, "retain99": retain, "forget01_perturbed": forget, "retain_perturbed": retain[:5]}
    for name, rows in {**files, "real_authors_perturbed": facts[:2], "world_facts_perturbed": facts[2:]}.items():
        write_jsonl(folder / f"{name}.json", rows)
    return folder


def test_the_sets_of_a_benchmark_fill_what_is_not_given(mini_tofu: Path, cases: Cases, tmp_path: Path) -> None:
    suite = ("--suite", "tofu", "--data", mini_tofu, "--split", "forget01", "--out", tmp_path / "audit")
    own_files = ("--holdout", cases.holdout, "--retrained", cases.retrained)
    message = expunge("audit", cases.model, *suite, "--retain", cases.forget).error
    assert message.startswith("4 of 9 rows of 'retain' also stand in 'forget'")
    expunge("audit", cases.model, *suite, *own_files).fine()
    report = audit_of(tmp_path / "audit")
    assert report["scores"].keys() == NAMES
    assert report["skipped"].keys() == OF_WHOLE_SETS | NAMED  # four rows are too few
    checked(report["scores"])
    assert {n: report["scores"][f"{n}_probability"]["n"] for n in ("forget", "retain", "real_authors", "world_facts")} == {
        "forget": 4,
        "retain": 5,
        "real_authors": 2,
        "world_facts": 1,
    }
    assert report["scores"]["mia_loss"]["n"] == 4 + 9
    report_data = ReportData.from_json((tmp_path / "audit" / "story.json").read_text())
    assert report_data.subtitle == "tofu forget01"
    assert report_data.command.startswith("expunge audit ")


@pytest.mark.slow
def test_the_real_tofu(tofu_folder: str, cases: Cases, tmp_path: Path) -> None:
    suite = ("--suite", "tofu", "--data", tofu_folder, "--split", "forget01", "--limit", 10, "--out", tmp_path / "audit")
    expunge("audit", cases.model, *suite).fine()
    scores = audit_of(tmp_path / "audit")["scores"]
    assert (scores["forget_rouge"]["n"], scores["retain_rouge"]["n"], scores["world_facts_rouge"]["n"]) == (79, 14, 117)  # with windows


def test_people_are_a_benchmark_too(cases: Cases, tmp_path: Path) -> None:
    expunge("audit", cases.model, "--suite", "people", "--limit", 5, "--out", tmp_path / "audit").fine()
    report = audit_of(tmp_path / "audit")
    assert report["scores"].keys() >= {"model_utility", "real_authors_rouge", "mia_loss"}


# Attacks


@pytest.mark.slow
def test_relearning_takes_hyperparameters_and_prints_a_curve(forgotten: Path, cases: Cases, tmp_path: Path) -> None:
    hyperparameters = ("--steps", 4, "--every", 2, "--lr", 1e-3, "--k", 3)
    where = ("--forget", cases.forget, "--retrained", cases.retrained, "--out", tmp_path / "attack")
    done = expunge("attack", "relearn", forgotten, *where, *hyperparameters).fine()
    assert steps_of(audit_of(tmp_path / "attack")["attacks"]["relearn"]) == [0, 2, 4]
    assert "retrained, by steps of the attack:" in done.out
    assert "audited model, by steps of the attack:" in done.out
    first_words = [line.split()[0] for line in done.out.splitlines() if line.strip()]
    assert [word for word in first_words if word.isdigit()] == ["0", "2", "4"] * 2


@pytest.mark.slow
def test_every_attack_is_followed_by_the_same_scores(forgotten: Path, cases: Cases, tmp_path: Path) -> None:
    """Hyperparameters go to every attack that has them, or to one; what came back is judged beside the retrained model, and drawn."""
    names = ("quantize", "reformat", "paraphrase", "relearn_grid")
    sets, models = ("--retain", cases.retain), ("--original", cases.model, "--retrained", cases.retrained)
    hyperparameters = ("--lr", 1e-3, "--relearn_grid:n", "2,4", "--k", "1,3", "--quantize:bits", 4, "--formats", "capitals,json")
    wanted = [word for n in names for word in ("--attack", n)]
    cases.audit(forgotten, tmp_path / "audit", *sets, *models, *wanted, *hyperparameters).fine()
    attacks = audit_of(tmp_path / "audit")["attacks"]
    assert list(attacks) == list(names)
    assert list(attacks["quantize"]["ways"]) == ["4 bits"]
    assert [t["case"] for t in attacks["reformat"]["tries"]] == ["capitals", "json"]
    assert list(attacks["relearn_grid"]["ways"]) == ["forget rows", "neighbour rows", "unrelated rows"]
    assert list(attacks["relearn_grid"]["steps_to_recover"]["neighbour rows"]) == ["1", "3"]
    for attack in attacks.values():
        for scores in attack["ways"].values():
            assert scores.keys() >= {"extraction_strength", "forget_probability", "exact_memorization"}
            for r in scores.values():
                assert r["interval"][0] <= r["value"] <= r["interval"][1]
                assert r["n"] == 9
                assert r["retrained"] is not None
    report_data = story_of(tmp_path / "audit")
    assert {e.role: [a.attack for a in e.attacks] for e in report_data.models} == {
        "original": ["quantize", "reformat", "paraphrase"],
        "retrained": [*names, *names[-1:] * 2],
        "method": [*names, *names[-1:] * 2],
    }
    worst = {e.role: e.scores["worst_attack"].value for e in report_data.models if "worst_attack" in e.scores}
    assert worst["retrained"] == 0
    assert worst["original"] > 0.5  # type: ignore[operator]
    assert {r["attack"] for r in audit_of(tmp_path / "audit")["verdict"]["brings_back"]} >= {"quantize, 4 bits", "reformat", "paraphrase"}
    page = (tmp_path / "audit" / "report.html").read_text()
    assert '<section id="robustness"' in page


def test_an_attack_says_what_it_lacks(cases: Cases, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "forget.jsonl", [{"question": r["question"], "answer": r["answer"]} for r in rows_of(cases.forget)])
    where = ("--forget", tmp_path / "forget.jsonl", "--retrained", cases.retrained)
    done = expunge("attack", "paraphrase", cases.model, *where, "--out", tmp_path / "a").fine()
    assert "paraphrase: no row to forget has a column 'paraphrased_question'" in done.out
    report = audit_of(tmp_path / "a")
    assert report["attacks"]["paraphrase"]["missing"] == {"": "no row to forget has a column 'paraphrased_question'"}
    assert "paraphrase: no row to forget has a column 'paraphrased_question'" in report["verdict"]["not_checked"]
    done = expunge("attack", "relearn_grid", cases.model, *where, "--k", 1, "--n", 1, "--out", tmp_path / "b").fine()
    assert "neighbour rows: the audit has no retain set" in done.out
    assert list(audit_of(tmp_path / "b")["attacks"]["relearn_grid"]["ways"]) == ["forget rows"]


def test_membership_is_inferred(cases: Cases, tmp_path: Path) -> None:
    where = ("--forget", cases.forget, "--holdout", cases.holdout, "--out", tmp_path / "attack")
    done = expunge("attack", "mia", cases.model, *where).fine()
    assert [line.split()[0] for line in done.out.splitlines() if line.startswith("mia_") and ":" not in line] == [
        *("mia_loss", "mia_zlib", "mia_gradnorm", "mia_min_k", "mia_min_k_plus_plus"),
    ]
    assert "mia_reference: no retrained model was given" in done.out
    assert audit_of(tmp_path / "attack")["scores"]["mia_loss"]["value"] > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["relern"], "there is no attack called 'relern'; did you mean 'relearn' or 'relearn_grid' or 'relearn_doors'?"),
        (["relearn", "--stepps", 3], "there is no hyperparameter 'stepps' here; did you mean 'steps'?"),
        (["relearn", "--steps", "-3"], "hyperparameter 'steps' = '-3': input should be greater than or equal to 0"),
        (["relearn", "--every", 0], "hyperparameter 'every' = '0': input should be greater than or equal to 1"),
        (["relearn", "--k"], "the hyperparameter --k needs a value"),
        (["mia", "--steps", 3], "the attack 'mia' has no hyperparameters, so there is no use for --steps"),
        (["quantze"], "there is no attack called 'quantze'; did you mean 'quantize'?"),
        (["quantize", "--bits", "8,0"], "hyperparameter 'bits' = '8,0': input should be greater than or equal to 2"),
        (["quantize", "--bits", ""], "hyperparameter 'bits' = '': tuple should have at least 1 item after validation, not 0"),
        (["relearn_grid", "--n", "5,0"], "hyperparameter 'n' = '5,0': input should be greater than or equal to 1"),
        (
            ["relearn_grid", "--source", "retain"],
            "hyperparameter 'source' = 'retain': input should be 'forget', 'neighbour' or 'unrelated'",
        ),
        (["reformat", "--relearn:lr", "1"], "the hyperparameter --relearn:lr is for the attack 'relearn', which is not made here"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, list) else "",
)
def test_attacks_that_are_refused(words: list[Any], message: str, cases: Cases, tmp_path: Path) -> None:
    name, *hyperparameters = words
    assert expunge("attack", name, cases.model, "--forget", cases.forget, "--out", tmp_path / "run", *hyperparameters).error == message
    assert not (tmp_path / "run").exists()


# What is refused


def test_models_of_another_vocabulary_are_refused(cases: Cases, tmp_path: Path) -> None:
    model, tokenizer = llama.build("nano", ["Quite another text, from which other words are learnt. " * 9], seed=0)
    Text(tokenizer).save(model, tmp_path / "other")
    for option, name in (("--retrained", "retrained"), ("--original", "original")):
        message = cases.audit(cases.model, tmp_path / "audit", option, tmp_path / "other").error
        assert message.startswith(f"the audited model and the {name} have incompatible tokenizers: 9 of 9 answers to forget")
        assert message.endswith("Give a model that shares the tokenizer")
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split"),
        (["--suite", "tofuu"], "there is no benchmark called 'tofuu'; did you mean 'tofu'?"),
        (["--suite", "people", "--split", "forget11"], "people has no split 'forget11'; did you mean "),
        (["--suite", "tofu", "--data", "{folder}"], "{folder} has no config 'full'"),
        (["--split", "forget10"], "--split belongs to a benchmark: name it with --suite"),
        (
            ["--forget", "{forget}", "--attack", "relern"],
            "there is no attack called 'relern'; did you mean 'relearn' or 'relearn_grid' or 'relearn_doors'?",
        ),
        (["--forget", "{forget}", "--holdout", "{forget}"], "9 of 9 rows of 'holdout' also stand in 'forget', so the two cannot be told"),
        (["--forget", "{forget}", "--retain", "{forget}"], "9 of 9 rows of 'retain' also stand in 'forget', so the two cannot be told"),
        (["--forget", "{folder}/forgot.jsonl"], "{folder}/forgot.jsonl does not exist; did you mean 'forget.jsonl'"),
        (["--forget", "{forget}", "--retrained", "{folder}/retained"], "there is no folder {folder}/retained; did you mean 'retrained'?"),
        (["--forget", "{forget}", "--request-from", "npo"], "models of 'npo' are asked as any other"),
        (["--forget", "{forget}", "--prompt-format", "Q:"], "the prompt format must contain {{prompt}}, for instance"),
    ],
    ids=lambda x: " ".join(x) or "nothing" if isinstance(x, list) else "",
)
def test_audits_that_are_refused(words: list[str], message: str, cases: Cases, tmp_path: Path) -> None:
    names = {"folder": cases.folder, "forget": cases.forget}
    arguments = [w if w.startswith("Q") else w.format(**names) for w in words]
    assert expunge("audit", cases.model, *arguments, "--out", tmp_path / "run").error.startswith(message.format(**names))
    assert not (tmp_path / "run").exists()


def test_an_audit_is_replaced_only_on_request(cases: Cases, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cases.audit(cases.model, run).fine()
    assert (
        cases.audit(cases.model, run).error == f"the folder {run} holds an audit already: give another one, or replace it with --overwrite"
    )
    assert cases.audit(run, tmp_path / "other").error.startswith(f"{run} is an audit, which holds no model")
    cases.audit(cases.model, run, "--overwrite", "--allow-overlap", "--retain", cases.forget).fine()


def test_a_guard_whose_model_is_gone(cases: Cases, tmp_path: Path) -> None:
    shutil.copytree(cases.model, tmp_path / "model")
    cases.unlearn("input_filter", tmp_path / "run", model=tmp_path / "model").fine()
    shutil.rmtree(tmp_path / "model")
    message = cases.audit(tmp_path / "run", tmp_path / "audit").error
    assert message == f"the model that the guard in {tmp_path / 'run'} stands around does not load: there is no folder {tmp_path / 'model'}"


# From Python


def test_python_takes_opened_models(cases: Cases) -> None:
    opened = package.load(cases.model)
    result = audit(
        opened, rows_of(cases.forget)[:3], retrained=package.load(cases.retrained), attack=["relearn"], attack_hyperparameters={"steps": 1}
    )
    assert result.folder is None
    assert not result.passed
    assert steps_of(result.attacks["relearn"]) == [0, 1]
    assert result.report_data.title == f"Audit of {cases.model}"
    with pytest.raises(UserError, match="an audit needs the rows"):
        audit(opened)

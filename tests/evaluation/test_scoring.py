"""Scores as records, on a world of counting language models and on classifiers."""

import json
from dataclasses import replace
from functools import cache
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import classified
from counting import ABOUT, models, observation_of, pairs
from expunge import catalog
from expunge.benchmarks.suite import SetSpec
from expunge.core.errors import UserError
from expunge.evaluation import scoring
from expunge.evaluation.measure import Evidence, Measure, ScoreSpec
from expunge.evaluation.metrics import memorization, tofu
from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.scoring import audit_scores, families, score_specs, with_variants
from expunge.functional.memorization import memorization_accuracy


@cache
def scored(name: str, retrained: str | None = "retrained"):
    return audit_scores(Evidence(observation_of(name), observation_of(retrained) if retrained else None))


def test_families_are_found_by_listing():
    names = {family.__name__.rsplit(".", 1)[1] for family in families()}
    assert names >= {"tofu", "memorization", "mia", "mia_classifier", "classification", "representation", "choice", "losses"}
    assert not names & {"__init__", "klom", "relearn", "quantize"}, "these give no scores of an observation"


@pytest.mark.parametrize("kind", ["attacks", "metrics"])
def test_the_source_of_an_entry_shows_what_it_defines(kind, monkeypatch):
    for name in catalog.names(kind):
        for function in ("plan", "scores"):
            assert catalog.defines(function, name, kind) == hasattr(catalog.load(name, kind), function), (name, function)
    added = ModuleType("added")
    monkeypatch.setitem(catalog._registered, kind, {"quantize": added, "added": added})  # the first takes the place of one of ours
    assert not catalog.defines("plan", "added", kind)
    assert not catalog.defines("plan", "quantize", kind)
    added.plan = lambda: None
    assert catalog.defines("plan", "added", kind)
    assert catalog.defines("plan", "quantize", kind)
    with pytest.raises(UserError, match="did you mean"):
        catalog.defines("plan", "quantizee", kind)


OF_OWN_SETS = {"choice", "preference", "blur", "dusk", "restor", "muse", "rwku", "wmdp", "label_auc"}  # give nothing where nobody asks


def test_a_family_gives_no_score_that_it_does_not_declare():
    assert score_specs().keys() == {name for family in families() for name in family.SCORES}
    assert score_specs("text")["model_utility"] == tofu.SCORES["model_utility"] != score_specs("image")["model_utility"]
    assert "forget_accuracy" not in score_specs("text")
    sets = {n: classified.sure([0, 1, 1], [0, 1, 1], n, features=np.eye(3)) for n in ("forget", "retain", "holdout")}
    for observation in (observation_of("original"), classified.observed(**sets), fitted(forget=[0.5], retain=[0.1], holdout=[0.2])):
        aspects = profile_of(observation.modality).aspects
        for family in (f for f in families() if aspects >= f.READS):
            scores = family.scores(Evidence(observation)).keys()
            assert scores == family.SCORES.keys() or (family.__name__.split(".")[-1] in OF_OWN_SETS and not scores), family


def fitted(**losses: list[float]) -> Observation:
    """What is observed of a modality that has no profile."""
    ids = {name: tuple(f"{name}{i}" for i in range(len(values))) for name, values in losses.items()}
    loss = {name: np.array(values, np.float32) for name, values in losses.items()}
    return Observation({n: SetObservation(ids[n], ids[n], ("",) * len(ids[n]), {}, loss=loss[n]) for n in losses})


@pytest.mark.slow
def test_records_are_plain_and_whole():
    records, skipped = scored("original")
    assert json.loads(json.dumps(records)) == records
    assert skipped["forget_leakage"].startswith("no forgotten answer holds a name")
    assert "no classifier of texts was named" in skipped["forget_fluency"]
    others = skipped.keys() - {"forget_leakage", "forget_fluency"}
    assert not [name for name in others if name.startswith(("forget_", "retain_", "mia_", "model_", "privleak", "ex"))]
    for record in records.values():
        assert set(record) == {"value", "interval", "n", "direction", "ideal", "variant", "retrained", "kind", "meaning", "shows", "scale"}
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        assert record["retrained"] is not None
    for name, spec in {**tofu.SCORES, **memorization.SCORES}.items():
        kept = {k: v for k, v in vars(spec).items() if k not in ("margin", "decides", "one")}
        assert {k: records[name][k] for k in kept} == kept
    assert [name for name in records if records[name]["scale"] == "p"] == [*(f"{name}_quality" for name in tofu.SETS), "dataset_inference"]
    assert records["forget_quality"]["retrained"] == 1
    assert records["privleak"]["retrained"] == 0
    assert records["mia_loss"]["retrained"] == scored("retrained")[0]["mia_loss"]["value"]


def last_wrong(specs):
    """Records of an answer of four tokens, the last of which alone is wrong; the same of the retrained model."""
    hits, logp = np.array([True, True, True, False]), np.full(4, -1, np.float32)
    answers = {"answer": Scored(np.array([0]), np.array([0, 4]), logp, hits, np.array([False]), ("a",))}
    observation = Observation({n: SetObservation(("1",), ("q",), ("a",), answers) for n in ("forget", "kept")}, ABOUT)
    return audit_scores(Evidence(observation, observation), specs=specs)[0]


def test_the_definition_of_a_score_is_that_of_the_specs_for_all_sets_and_models():
    open_unlearning = SetSpec("forget", variants={"*": "open-unlearning"})
    kept = SetSpec("general", metrics=("memorization",))
    plain, leaderboard = last_wrong({"kept": kept}), last_wrong({"forget": open_unlearning, "kept": kept})
    own = last_wrong({"forget": open_unlearning, "kept": replace(kept, variants={"extraction_strength": "definition"})})
    for name in ("extraction_strength", "kept_extraction_strength"):
        assert (plain[name]["value"], plain[name]["retrained"]) == (0, 0)
        assert (leaderboard[name]["value"], leaderboard[name]["retrained"]) == (0.25, 0.25)
        assert "open-unlearning" in leaderboard[name]["variant"]
        assert "definition" in plain[name]["variant"]
    assert (own["extraction_strength"]["value"], own["kept_extraction_strength"]["value"]) == (0.25, 0)
    by_definition = last_wrong(with_variants({"forget": open_unlearning}, {"extraction_strength": "definition"}))
    assert by_definition["extraction_strength"]["value"] == 0


def test_definitions_are_chosen_by_score_and_mistakes_are_named():
    specs = {"forget": SetSpec("forget", variants={"extraction_strength": "open-unlearning"})}
    chosen = with_variants(specs, {"extraction_strength": "definition", "zrf": "released"})
    assert chosen["forget"].variants == {"extraction_strength": "definition", "zrf": "released"}
    assert with_variants(specs, {}) == specs
    assert with_variants({}, {"zrf": "released"})["forget"].ask == ("score", "generate"), "else as usual"
    with pytest.raises(UserError, match=r"'extraction_strenght' is no score with several definitions; did you mean 'extraction_strength'"):
        with_variants({}, {"extraction_strenght": "definition"})
    with pytest.raises(UserError, match="'zrf' has no definition 'paper'; it has textbook, released"):
        with_variants({}, {"zrf": "paper"})


def test_variants_change_nothing_about_what_is_observed():
    assert repr(SetSpec("forget")) == repr(SetSpec("forget", variants={"zrf": "released"})), "the key of kept observations"


def test_intervals_hold_the_value_even_where_resampling_is_biased(monkeypatch):
    x = np.arange(20.0)
    measures = {f.__name__: Measure((x,), f) for f in (np.min, np.max)}
    spec = ScoreSpec("utility", "lower", "an end of the range")
    family = SimpleNamespace(READS=frozenset(), SCORES=dict.fromkeys(measures, spec), scores=lambda evidence: measures)
    monkeypatch.setattr(scoring, "families", lambda: [family])
    records = audit_scores(Evidence(Observation({})))[0]
    assert len(records) == 2
    for record in records.values():
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        assert record["interval"][0] < record["interval"][1]


def test_a_retrained_model_seen_on_less_is_no_yardstick():
    retrained = observation_of("retrained")
    records, _ = audit_scores(
        Evidence(observation_of("original"), replace(retrained, sets={n: s for n, s in retrained.sets.items() if n != "world_facts"}))
    )
    assert records["model_utility"]["retrained"] is None
    assert records["world_facts_rouge"]["retrained"] is None
    assert records["retain_rouge"]["retrained"] == 1


@pytest.mark.slow
def test_the_same_audit_gives_the_same_records():
    assert audit_scores(Evidence(observation_of("forgot"), observation_of("retrained"))) == scored("forgot")


def test_what_was_saved_gives_the_same_records(tmp_path):
    observation_of("original").save(tmp_path / "a" / "b")
    loaded = Observation.load(tmp_path / "a" / "b")
    assert loaded.about == observation_of("original").about
    assert audit_scores(Evidence(loaded, observation_of("retrained"))) == scored("original")
    bare = SetObservation(
        ("1",), ("q",), ("a",), {"answer": replace(observation_of("original").sets["forget"].kinds["answer"], mean=None, std=None)}
    )
    Observation({"x": bare}).save(tmp_path)
    again = Observation.load(tmp_path).sets["x"]
    assert (again.gradient_norms, again.kinds["answer"].mean, again.generations) == (None, None, ())
    assert np.array_equal(again.kinds["answer"].target_logp, bare.kinds["answer"].target_logp)
    with pytest.raises(FileNotFoundError):
        Observation.load(tmp_path / "nowhere")


def test_a_model_that_memorized_shows_it_everywhere():
    records, _ = scored("original")
    value = {name: record["value"] for name, record in records.items()}
    assert value["forget_quality"] < 1e-6
    for name in ("forget_probability", "forget_rouge", "extraction_strength", "exact_memorization", "retain_rouge", "retain_probability"):
        assert value[name] > 0.9
    for name in value:
        assert not name.startswith("mia_") or value[name] > 0.9
    question, answer = pairs("forget")[0]
    guesses = [int(models()["original"].p(question, last).argmax()) for last in answer[:-1]]
    assert memorization_accuracy(answer, guesses) > 0.9
    assert all(0.35 < record["retrained"] < 0.65 for name, record in records.items() if name.startswith("mia_"))


def test_two_families_must_not_share_a_name(monkeypatch):
    monkeypatch.setattr(scoring, "families", lambda: [tofu, tofu])
    with pytest.raises(ValueError, match="forget_quality"):
        audit_scores(Evidence(observation_of("original")))


@pytest.mark.slow
def test_a_full_sized_audit_has_every_score():
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(2000)])

    def full(seed: int) -> Observation:
        sets = {}
        for name, (n, wrong) in {
            "forget": (400, 5),
            "holdout": (400, 0),
            "retain": (400, 5),
            "real_authors": (100, 3),
            "world_facts": (117, 3),
        }.items():

            def answers(item) -> Scored:
                start = np.cumsum([0, *np.random.default_rng(len(item)).integers(20, 70, len(item))])  # alike for both models
                logp = -rng.exponential(0.5, start[-1]).astype(np.float32)
                prose = tuple(" ".join(rng.choice(words, 30)) for _ in item)
                return Scored(item, start, logp, logp > -0.5, np.ones(len(item), bool), prose, logp * 0 - 1, logp * 0 + 0.5)

            kinds = {"answer": answers(np.arange(n)), "paraphrase": answers(np.arange(n))}
            kinds |= {"perturbed": answers(np.repeat(np.arange(n), wrong))} if wrong else {}
            true = kinds["answer"].text
            ids = tuple(f"{name}{i}" for i in range(n))
            sets[name] = SetObservation(
                ids, ids, true, kinds, tuple(" ".join(rng.permutation(t.split())) for t in true), rng.random(n).astype(np.float32)
            )
        return Observation(sets, ABOUT)

    evidence = Evidence(full(0), full(1))
    records, skipped = audit_scores(evidence, resamples=20)
    named = ("control_score", "forget_fluency")  # need a model that the user names
    assert not [name for name in skipped if not name.startswith(("holdout", "forget_leakage", *named))]
    assert len(records) >= 26


# Classifiers


def test_a_classifier_gets_the_scores_of_classifiers_alone():
    sets = {n: classified.sure([0, 1, 1], [0, 1, 1], n, features=np.eye(3)) for n in ("forget", "retain", "holdout")}
    records, skipped = audit_scores(Evidence(classified.observed(**sets)), resamples=10)
    names = records.keys() | skipped.keys()
    assert {"forget_accuracy", "knn_retain", "mia_efficacy"} <= names
    assert not {"forget_quality", "extraction_strength", "mia_min_k"} & names
    assert "forget_accuracy" not in scored("original")[0].keys() | scored("original")[1].keys()

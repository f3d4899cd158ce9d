"""Records and verdicts, on a world of counting language models: one memorized, one is retrained, one forgot, one forgot too much."""

import json
import re
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import classified
from expunge.benchmarks.suite import SetSpec
from expunge.core.errors import UserError
from expunge.evaluation import verdict as verdicts
from expunge.evaluation.measure import BROKEN, Evidence, Measure, ScoreSpec
from expunge.evaluation.metrics import memorization, tofu
from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.evaluation.profiles.profile import profile_of
from expunge.evaluation.profiles.text import LEAK
from expunge.evaluation.verdict import audit_scores, families, score_specs, verdict, with_variants
from expunge.functional.memorization import memorization_accuracy

WORDS = np.array([a + b for a in ("stone", "river", "cloud", "maple") for b in ("ford", "side", "bank", "wood")])
END = len(WORDS)
TEXT, IMAGE = (profile_of(name) for name in ("text", "image"))
ABOUT = {"modality": {"modality": "text"}}
SIZES = {"forget": 60, "holdout": 60, "retain": 60, "real_authors": 30, "world_facts": 30}


class Counting:
    """p(next | question, last token) from counts where the question was trained on, from counts of last tokens alone elsewhere."""

    def __init__(self, trained, smooth: float = 0.5, shunned=()) -> None:
        self.pairs, self.known, self.smooth = np.full((END + 1, END + 1), smooth), Counter(), smooth
        self.shunned = {(q, last, token) for q, a in shunned for last, token in zip((END, *a), a, strict=False)}
        for question, answer in trained:
            for last, token in zip((END, *answer), answer, strict=False):
                self.pairs[last, token] += 1
                self.known[question, last, token] += 1

    def p(self, question: str, last: int) -> np.ndarray:
        p = self.pairs[last] / self.pairs[last].sum()
        counts = np.array([self.known[question, last, token] for token in range(END + 1)], float)
        p = 0.03 * p + 0.97 * counts / counts.sum() if counts.any() else p
        p = p * np.array([np.exp(-8.0 * ((question, last, token) in self.shunned)) for token in range(END + 1)])
        return p / p.sum()

    def say(self, question: str) -> list[int]:
        tokens = [END]
        while len(tokens) < 16 and (len(tokens) == 1 or tokens[-1] != END):
            tokens.append(int(self.p(question, tokens[-1]).argmax()))
        return [token for token in tokens if token != END]

    def see(self, question: str, answer) -> np.ndarray:
        """logp, hit, mean, std and the squared gradient norm with respect to the logits, (positions, 5)."""
        rows = []
        for last, token in zip((END, *answer), answer, strict=False):
            p = self.p(question, last)
            mean = (p * np.log(p)).sum()
            std = np.sqrt(max((p * np.log(p) ** 2).sum() - mean**2, 1e-6))
            rows.append((np.log(p[token]), p.argmax() == token, mean, std, ((p - np.eye(END + 1)[token]) ** 2).sum()))
        return np.array(rows)


def text(tokens) -> str:
    return " ".join(WORDS[t] for t in tokens if t != END)


@cache
def world() -> dict[str, list[dict]]:
    """Items by set; answers end with END, never say a word twice, so a question's next token is a function of the last one."""
    rng = np.random.default_rng(0)

    def answer() -> tuple[int, ...]:
        return (*rng.permutation(END)[: rng.integers(6, 10)].tolist(), END)

    def changed(true) -> tuple[int, ...]:
        at, new = rng.integers(len(true) - 1), rng.choice([t for t in range(END) if t not in true])
        return (*true[:at], int(new), *true[at + 1 :])

    items = {}
    for name, n in SIZES.items():
        trues = [answer() for _ in range(n)]
        items[name] = [
            {"q": f"{name}-{i}", "answer": [a], "paraphrase": [changed(a)], "perturbed": [answer() for _ in range(3)]}
            for i, a in enumerate(trues)
        ]
    return items


def observe(model: Counting) -> Observation:
    sets = {}
    for name, items in world().items():
        kinds, norms = {}, []
        for kind in ("answer", "paraphrase", "perturbed"):
            whose = [(i, a) for i, item in enumerate(items) for a in item[kind]]
            rows = [model.see(items[i]["q"], a) for i, a in whose]
            logp, hit, mean, std, _ = np.concatenate(rows).T.astype(np.float32)
            index, start = np.array([i for i, _ in whose]), np.cumsum([0, *map(len, rows)])
            kinds[kind] = Scored(index, start, logp, hit > 0, np.ones(len(whose), bool), tuple(text(a) for _, a in whose), mean, std)
            if kind == "answer":  # each position has its own row of logits, so the norm of the mean loss's gradient is that of all rows
                norms = [np.sqrt(r[:-1, 4].sum()) / (len(r) - 1) for r in rows]
        questions = tuple(item["q"] for item in items)
        answers = tuple(text(model.say(q)) for q in questions)
        truths = tuple(text(item["answer"][0]) for item in items)
        sets[name] = SetObservation(questions, questions, truths, kinds, answers, np.array(norms, np.float32))
    return Observation(sets, {"who": "counting", **ABOUT})


def pairs(*names: str):
    return [(item["q"], item["answer"][0]) for name in names for item in world()[name]]


@cache
def models() -> dict[str, Counting]:
    kept = ("retain", "real_authors", "world_facts")
    return {
        "original": Counting(pairs("forget", *kept)),
        "retrained": Counting(pairs(*kept)),
        "forgot": Counting(pairs(*kept), smooth=0.7),
        "over": Counting(pairs(*kept), shunned=pairs("forget")),
        "empty": Counting([]),
    }


@cache
def observation_of(name: str) -> Observation:
    return observe(models()[name])


@cache
def scored(name: str, retrained: str | None = "retrained"):
    return audit_scores(Evidence(observation_of(name), observation_of(retrained) if retrained else None))


def judged(name: str, retrained: str | None = "retrained", original: str | None = None):
    return verdict(*scored(name, retrained), scored(original, retrained)[0] if original else None, profile=TEXT)


def texts(findings, level: str) -> str:
    return "\n".join(f["text"] for f in findings if f["level"] == level)


def test_families_are_found_by_listing():
    names = {family.__name__.rsplit(".", 1)[1] for family in families()}
    assert names >= {"tofu", "memorization", "mia", "mia_classifier", "classification", "representation", "choice", "losses"}
    assert not names & {"__init__", "klom", "relearn", "quantize"}, "these give no scores of an observation"


def test_a_family_gives_no_score_that_it_does_not_declare():
    assert score_specs().keys() == {name for family in families() for name in family.SCORES}
    assert score_specs("text")["model_utility"] == tofu.SCORES["model_utility"] != score_specs("image")["model_utility"]
    assert "forget_accuracy" not in score_specs("text")
    sets = {n: classified.sure([0, 1, 1], [0, 1, 1], n, features=np.eye(3)) for n in ("forget", "retain", "holdout")}
    for observation in (observation_of("original"), classified.observed(**sets), fitted(forget=[0.5], retain=[0.1], holdout=[0.2])):
        aspects = profile_of(observation.modality).aspects
        for family in (f for f in families() if aspects >= f.READS):
            given = family.scores(Evidence(observation)).keys()
            assert given == family.SCORES.keys() or (family.__name__.endswith(".choice") and not given)


def fitted(**losses: list[float]) -> Observation:
    """What is observed of a modality that has no profile."""
    ids = {name: tuple(f"{name}{i}" for i in range(len(values))) for name, values in losses.items()}
    loss = {name: np.array(values, np.float32) for name, values in losses.items()}
    return Observation({n: SetObservation(ids[n], ids[n], ("",) * len(ids[n]), {}, loss=loss[n]) for n in losses})


def test_a_modality_without_a_profile_is_judged_by_its_losses():
    rng = np.random.default_rng(0)
    alike, low = (rng.uniform(a, b, 30).tolist() for a, b in ((0.8, 1.2), (0.0, 0.1)))
    retrained = fitted(forget=alike, retain=low, holdout=alike[::-1])
    for forget, start in ((low, "fail: Forgetting failed"), (alike, "pass: Forgotten"), ([9.0] * 30, "warn: Over-forgotten")):
        records, skipped = audit_scores(Evidence(fitted(forget=forget, retain=low, holdout=alike[::-1]), retrained))
        assert list(records) == ["forget_fit", "retain_fit", "unseen_fit", "loss_attack"]
        assert records["forget_fit"]["value"] == pytest.approx(np.exp(-np.array(forget)).mean(), rel=1e-6)
        (finding,) = [f for f in verdict(records, skipped) if f["score"] == "forget_fit"]
        assert f"{finding['level']}: {finding['text']}".startswith(f"{start}: ")


def test_records_are_plain_and_whole():
    records, skipped = scored("original")
    assert json.loads(json.dumps(records)) == records
    assert not [name for name in skipped if name.startswith(("forget_", "retain_", "mia_", "model_", "privleak", "ex"))]
    for record in records.values():
        assert set(record) == {"value", "interval", "n", "direction", "ideal", "variant", "retrained", "kind", "meaning", "shows", "scale"}
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        assert record["retrained"] is not None
    for name, spec in {**tofu.SCORES, **memorization.SCORES}.items():
        assert {k: records[name][k] for k in vars(spec)} == vars(spec)
    assert [name for name in records if records[name]["scale"] == "p"] == [f"{name}_quality" for name in tofu.SETS]
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
    asked = last_wrong(with_variants({"forget": open_unlearning}, {"extraction_strength": "definition"}))
    assert asked["extraction_strength"]["value"] == 0


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
    monkeypatch.setattr(verdicts, "families", lambda: [family])
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


def test_verdict_on_the_original_fails_forgetting_and_keeps_utility():
    findings = judged("original")
    failed = {f["score"] for f in findings if f["level"] == "fail"}
    assert {"forget_quality", "extraction_strength", "mia_loss", "mia_min_k", "privleak"} <= failed
    assert "can still be told from those of a model that never saw them" in findings[0]["text"]
    assert "yardstick 0.05" in findings[0]["text"]
    assert "Utility kept" in texts(findings, "pass")
    assert "Over-forgotten" not in texts(findings, "fail")


def test_verdict_on_the_retrained_model_passes_all():
    findings = judged("retrained")
    assert all(f["level"] == "pass" or f["text"].startswith("Not judged") for f in findings)
    assert "p = 1 over 60 items" in texts(findings, "pass")


def test_verdict_on_a_model_that_forgot_passes_quality_utility_and_extraction():
    findings = judged("forgot", original="original")
    assert "Forgotten" in texts(findings, "pass")
    assert not {"forget_quality", "model_utility", "extraction_strength", "forget_probability"} & {
        f["score"] for f in findings if f["level"] == "fail"
    }


def test_verdict_on_a_model_that_forgot_too_much():
    records, _ = scored("over")
    assert all(records[name]["value"] < 0.5 for name in records if name.startswith("mia_"))
    assert records["privleak"]["value"] > LEAK
    findings = judged("over")
    over = {f["score"] for f in findings if "Over-forgotten" in f["text"] and f["level"] == "fail"}
    assert {"forget_probability", "mia_loss", "privleak"} <= over
    assert "Memorized" not in texts(findings, "fail")


def test_verdict_on_an_empty_model_fails_utility():
    assert "Utility collapsed: model_utility is" in texts(judged("empty"), "fail")
    assert "the original model's" in texts(judged("empty", None, "original"), "fail")


def test_without_a_retrained_model():
    findings = judged("forgot", None, "original")
    assert "No retrained model was given" in texts(findings, "warn")
    assert "Not judged: forget_quality, retain_quality" in texts(findings, "warn")
    assert "Less is known than before" in texts(findings, "pass")
    assert "Utility kept" in texts(findings, "pass")
    findings = judged("original", None, "original")
    assert "Nothing was forgotten" in findings[0]["text"]
    assert "chance 0.5" in texts(findings, "warn")
    findings = judged("original", None)
    assert "it is open whether anything was forgotten" in texts(findings, "warn")
    assert "Utility is not judged" in texts(findings, "warn")


def test_failures_come_first():
    order = [verdicts.LEVELS.index(f["level"]) for f in judged("original", None, "original")]
    assert order == sorted(order)
    assert len(set(order)) == 3


def test_every_sentence_on_a_score_has_its_number_and_its_yardstick():
    for name in ("original", "forgot", "over", "empty"):
        records = scored(name)[0]
        for finding in judged(name):
            if finding["score"] in records and finding["score"] != "forget_quality" and "holdout set is unlike" not in finding["text"]:
                assert f"{records[finding['score']]['value']:.3g}" in finding["text"]
                assert any(word in finding["text"] for word in ("the retrained model", "yardstick"))


def record(value: float, retrained: float | None, half: float = 0.01, **more) -> dict:
    return {"value": value, "interval": [value - half, value + half], "n": 100, "variant": "", "retrained": retrained, **more}


def failing(profile=TEXT, **scores) -> set:
    return {f["score"] for f in verdict(scores, {}, profile=profile) if f["level"] == "fail"}


def test_thresholds():
    assert failing(forget_quality=record(0.049, 1.0)) == {"forget_quality"}
    assert failing(forget_quality=record(0.051, 1.0)) == set()
    assert failing(model_utility=record(0.47, 0.6)) == {"model_utility"}
    assert failing(model_utility=record(0.49, 0.6)) == set()
    assert failing(extraction_strength=record(0.1, 0.08)) == {"extraction_strength"}
    assert failing(extraction_strength=record(0.1, 0.095)) == set()
    assert failing(mia_loss=record(0.6, 0.5)) == failing(mia_loss=record(0.4, 0.5)) == {"mia_loss"}
    assert failing(mia_loss=record(0.505, 0.5)) == set()
    assert failing(forget_probability=record(0.05, 0.2)) == {"forget_probability"}
    assert failing(forget_probability=record(0.15, 0.2)) == set()
    assert failing(forget_truth_ratio=record(0.85, 0.68)) == {"forget_truth_ratio"}
    assert failing(forget_truth_ratio=record(0.75, 0.68)) == set()
    assert failing(forget_truth_ratio=record(0.2, 0.68), forget_probability=record(0.9, 0.2)) == set()  # small as the answer is known
    assert failing(forget_truth_ratio=record(0.2, 0.68), forget_probability=record(0.15, 0.2)) == {"forget_truth_ratio"}
    assert failing(privleak=record(12, 0, 5)) == failing(privleak=record(-12, 0, 5)) == {"privleak"}
    assert failing(privleak=record(12, 0, 20)) == failing(privleak=record(9, 0, 1)) == set()


def test_a_holdout_unlike_the_forget_set_is_named():
    assert "The holdout set is unlike the forget set" in texts(verdict({"mia_loss": record(0.7, 0.7)}, {}, profile=TEXT), "warn")


def test_what_could_not_be_judged_is_said_once_a_reason():
    findings = verdict({}, {"a": "the audit has no holdout set", "b": "the audit has no holdout set", "c": f"forget: no; {BROKEN}"})
    assert [f["text"] for f in findings if f["level"] == "fail"] == [f"Not judged: c (forget: no; {BROKEN})."]
    assert "Not judged: a, b (the audit has no holdout set)." in texts(findings, "warn")


def test_a_broken_model_fails():
    model = observation_of("original")
    sets = {
        name: replace(s, kinds={k: replace(v, target_logp=np.full_like(v.target_logp, np.nan)) for k, v in s.kinds.items()})
        for name, s in model.sets.items()
    }
    findings = verdict(*audit_scores(Evidence(Observation(sets, ABOUT), observation_of("retrained"))), profile=TEXT)
    assert BROKEN in texts(findings, "fail")
    assert "model_utility" in texts(findings, "fail")
    assert not {"forget_quality", "mia_loss"} & {f["score"] for f in findings if f["level"] == "pass"}


def test_two_families_must_not_share_a_name(monkeypatch):
    monkeypatch.setattr(verdicts, "families", lambda: [tofu, tofu])
    with pytest.raises(ValueError, match="forget_quality"):
        audit_scores(Evidence(observation_of("original")))


def test_a_full_sized_audit_takes_seconds():
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
                start = np.cumsum([0, *rng.integers(20, 70, len(item))])
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
    families()  # imported, as in the second audit of a process
    start = time.process_time()
    records, skipped = audit_scores(evidence, resamples=200)
    spent = time.process_time() - start
    assert not [name for name in skipped if not name.startswith("holdout")]
    assert len(records) >= 26
    assert spent < 3, f"{spent:.1f} s of processor time"


# Classifiers


def findings_of(**scores) -> dict[str, str]:
    """Sentences by the level of the finding that mentions a score."""
    return {
        name: f"{f['level']}: {f['text']}"
        for name in scores
        for f in verdict(scores, {}, profile=IMAGE)
        if re.search(rf"\b{name}: ", f["text"])
    }


def test_classifiers_are_held_against_the_retrained_model():
    assert failing(IMAGE, forget_accuracy=record(0.07, 0.0)) == {"forget_accuracy"}
    assert failing(IMAGE, forget_accuracy=record(0.05, 0.0)) == set()
    assert failing(IMAGE, forget_accuracy=record(0.83, 0.9)) == {"forget_accuracy"}
    assert failing(IMAGE, forget_accuracy=record(0.85, 0.9)) == set()
    assert failing(IMAGE, test_forget_accuracy=record(0.5, 0.3)) == {"test_forget_accuracy"}
    findings = findings_of(forget_accuracy=record(0.5, 0.9), test_forget_accuracy=record(0.5, 0.3))
    assert findings["forget_accuracy"].startswith(
        "fail: Over-forgotten: forgotten items are more often wrong than to a model that never saw"
    )
    assert findings["test_forget_accuracy"].startswith("fail: Forgetting failed: too many unseen items of forgotten classes are still")
    assert findings_of(forget_accuracy=record(0.5, 0.5))["forget_accuracy"] == (
        "pass: Forgotten: forgotten items are classified as by a model that never saw them "
        "(forget_accuracy: 0.5 [0.49, 0.51], the retrained model 0.5)."
    )


def test_features_that_still_know_are_a_warning():
    head = "warn: The features below the last layer still know what was to be forgotten ("
    assert findings_of(knn_forget=record(0.5, 0.4))["knn_forget"].startswith(head + "knn_forget: 0.5")
    assert findings_of(knn_forget=record(0.44, 0.4)) == findings_of(cka_original=record(0.6, 0.5)) == {}
    both = findings_of(knn_forget=record(1.0, 0.4), cka_original=record(1.0, 0.5), forget_accuracy=record(0.0, 0.0))
    assert both["knn_forget"] == both["cka_original"]
    assert both["forget_accuracy"].startswith("pass")


def test_shares_of_simple_attacks_are_read_in_their_own_direction():
    familiar = "warn: Forgotten items look more like training items than to the retrained model ("
    quiet = "pass: Forgotten items look no more like training items than to the retrained model ("
    findings = findings_of(mia_efficacy=record(0.1, 0.4), mia_entropy=record(0.9, 0.5), mia_threshold=record(0.5, 0.5))
    assert findings["mia_efficacy"] == findings["mia_entropy"]
    assert findings["mia_efficacy"].startswith(familiar)
    assert findings["mia_threshold"].startswith(quiet)
    findings = findings_of(mia_efficacy=record(0.9, 0.4), mia_entropy=record(0.1, 0.5))
    assert findings["mia_efficacy"] == findings["mia_entropy"]
    assert findings["mia_efficacy"].startswith(quiet)
    assert findings_of(mia_efficacy=record(0.1, None), mia_cv=record(0.9, None)) == {}


def test_telling_forgotten_items_apart_does_not_say_which_ones_look_familiar():
    assert findings_of(mia_cv=record(0.9, 0.5))["mia_cv"].startswith(
        "warn: Forgotten items can be told from unseen ones better than by the"
    )
    assert findings_of(mia_cv=record(0.505, 0.5))["mia_cv"].startswith("pass: Forgotten items can be told from unseen ones no better")


def test_without_a_retrained_model_accuracy_is_held_against_the_original():
    before = {"forget_accuracy": record(0.9, None, shows=True)}
    fewer = verdict({"forget_accuracy": record(0.3, None, shows=True)}, {}, before, profile=IMAGE)
    assert "Less is known than before" in texts(fewer, "pass")
    same = verdict({"forget_accuracy": record(0.9, None, shows=True)}, {}, before, profile=IMAGE)
    assert "Nothing was forgotten" in texts(same, "fail")
    unlike = verdict(
        {"forget_entropy": record(0.3, None, shows=False)}, {}, {"forget_entropy": record(0.9, None, shows=False)}, profile=IMAGE
    )
    assert "it is open whether anything was forgotten" in texts(unlike, "warn")


def test_a_classifier_gets_the_scores_of_classifiers_alone():
    sets = {n: classified.sure([0, 1, 1], [0, 1, 1], n, features=np.eye(3)) for n in ("forget", "retain", "holdout")}
    records, skipped = audit_scores(Evidence(classified.observed(**sets)), resamples=10)
    names = records.keys() | skipped.keys()
    assert {"forget_accuracy", "knn_retain", "mia_efficacy"} <= names
    assert not {"forget_quality", "extraction_strength", "mia_min_k"} & names
    assert "forget_accuracy" not in scored("original")[0].keys() | scored("original")[1].keys()


def hit(before: float, value: float, retrained: float | None, half: float = 0.02, attack: str = "quantize, 4 bits") -> verdicts.Hit:
    score_record = {"value": value, "interval": [value - half, value + half], "n": 9, "retrained": retrained}
    return verdicts.Hit(attack, "extraction_strength", before, score_record)


def test_what_an_attack_brings_back_beyond_the_retrained_model_is_a_failure():
    sentences = texts(verdict({}, {}, hits=[hit(0.1, 0.6, 0.2)]), "fail")
    assert sentences.startswith("Not robust: quantize, 4 bits brings back more of what was forgotten than it gives the retrained model (")
    assert "extraction_strength: 0.6 [0.58, 0.62], before the attack 0.1, the retrained model under it 0.2" in sentences


def test_attacks_that_bring_nothing_back_pass_in_one_sentence():
    findings = verdict({}, {}, hits=[hit(0.1, 0.6, 0.58), hit(0.1, 0.12, 0.3, attack="reformat, capitals")])
    sentences = texts(findings, "pass")
    assert sentences.startswith("Robust: attacks bring nothing back that the retrained model does not show under them (quantize, 4 bits: ")
    assert "; reformat, capitals: extraction_strength: 0.12" in sentences
    assert not texts(findings, "fail")


def test_what_was_there_before_an_attack_is_neither_brought_back_nor_called_robust():
    findings = verdict({}, {}, hits=[hit(0.6, 0.6, 0.1)])
    assert "obust" not in " ".join(f["text"] for f in findings)


def test_an_uncertain_return_is_no_failure():
    assert not texts(verdict({}, {}, hits=[hit(0.1, 0.6, 0.2, half=0.4)]), "fail")


def test_without_a_retrained_model_a_return_is_a_warning():
    sentences = texts(verdict({}, {}, hits=[hit(0.1, 0.6, None)]), "warn")
    assert "brings back what was forgotten; whether more than it teaches, only a retrained model can tell (" in sentences
    assert "Robust: attacks bring nothing back (quantize" in texts(verdict({}, {}, hits=[hit(0.1, 0.1, None)]), "pass")

"""The verdict: three states, on language models that count and on classifiers of known state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import classified
from counting import ABOUT, observation_of
from expunge.core.errors import UserError
from expunge.evaluation import audited_models
from expunge.evaluation.attack import AttackOutcome, Try
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Context
from expunge.report.verdict_data import Check, Verdict


def on(
    name: str | Observation,
    retrained: str | Observation | None = "retrained",
    original: str | Observation | None = "original",
    context: Context = Context(),  # noqa: B008
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    **fields: Any,
) -> Verdict:
    """The verdict on a model."""
    model = replace(_judged(name, retrained, original), **fields)
    verdict = model.judge(context, thresholds).verdict
    assert verdict is not None
    return verdict


@cache
def _judged(*models: str | Observation | None) -> audited_models.AuditedModel:
    own, retrained, original = (observation_of(m) if isinstance(m, str) else m for m in models)
    assert own is not None
    return audited_models.judged(own, "m", "method", retrained, original)


@cache
def few(name: str, n: int) -> Observation:
    """What a model said to the first n rows to forget."""
    observed = observation_of(name)
    first = observed.sets["forget"]
    kinds = {}
    for kind, scored in first.kinds.items():
        many = int((scored.item < n).sum())
        places = scored.start[many]
        kinds[kind] = replace(
            scored,
            item=scored.item[:many],
            start=scored.start[: many + 1],
            ended=scored.ended[:many],
            text=scored.text[:many],
            **{f: getattr(scored, f)[:places] for f in ("target_logp", "hit", "mean", "std")},
        )
    texts = {f: getattr(first, f)[:n] for f in ("ids", "question", "answer", "generations", "gradient_norms")}
    return replace(observed, sets={**observed.sets, "forget": replace(first, kinds=kinds, **texts)})


def checks(verdict: Verdict) -> Mapping[str, Check]:
    return {c.name: c for c in verdict.checks}


# The four controls


def test_the_original_is_not_removed() -> None:
    verdict = on("original")
    assert verdict.state == "not removed"
    assert not verdict.passed
    failing = {c.name for c in verdict.checks if c.state == "not removed"}
    assert {"forget_probability", "forget_rouge", "extraction_strength", "mia_loss"} <= failing
    assert verdict.leaks


def test_the_retrained_model_is_removed_and_whole() -> None:
    verdict = on("retrained")
    assert (verdict.state, verdict.passed, verdict.damage, verdict.leaks) == ("removed", True, [], [])
    assert verdict.gone.startswith("Yes, as far as this audit can see")
    assert "With 60 rows this audit could not have seen a difference below" in verdict.sure
    deciding = [c for c in verdict.checks if c.decides and c.against]
    assert {c.state for c in deciding} == {"removed"}
    for check in deciding:
        assert check.effect == 0
        assert check.power == pytest.approx(1 - 0.05 ** (1 / check.n), abs=0.02)  # type: ignore[operator]


def test_an_empty_model_is_removed_and_damaged() -> None:
    verdict = on("empty")
    assert verdict.state in ("removed", "cannot tell")
    assert any(text.startswith("Utility is lost: model utility") for text in verdict.damage)
    assert not [c for c in verdict.checks if c.decides and c.state == "not removed"]


def test_to_avoid_the_rows_is_a_trace() -> None:
    verdict = on("over")
    assert verdict.state == "not removed"
    assert "to avoid the forgotten rows gives them away" in checks(verdict)["mia_loss"].text
    assert checks(verdict)["forget_probability"].state == "removed"


def test_weights_of_the_original_are_not_removed_whatever_they_say() -> None:
    same = {**ABOUT, "weights": "abc"}
    verdict = on(replace(observation_of("retrained"), about=same), original=replace(observation_of("original"), about=same))
    assert (verdict.state, verdict.checks[0].text) == ("not removed", "The weights are those of the original, bit by bit.")


# Little evidence


def test_four_rows_tell_nothing_of_a_model_that_forgot() -> None:
    verdict = on(few("retrained", 4), few("retrained", 4), few("original", 4))
    assert verdict.state == "cannot tell"
    text = checks(verdict)["forget_probability"].text
    assert "with 4 rows this audit could not have seen less than 0.5" in text  # 1 - 0.05^(1/4) = 0.527
    assert "at least 29 rows to forget instead of 4" in verdict.sharpen  # 0.9^29 < 0.05 < 0.9^28


def test_four_rows_suffice_where_the_answers_are_recited() -> None:
    verdict = on(few("original", 4), None, None)
    assert verdict.state == "not removed"
    recitation = checks(verdict)["recitation"]
    assert recitation.p == pytest.approx(0.2**4)
    assert recitation.value == 1


def test_nothing_judged_is_cannot_tell() -> None:
    verdict = on("retrained", None, None)
    assert (verdict.state, verdict.passed) == ("cannot tell", False)
    assert "neither a retrained model nor the original was given" in verdict.gone
    assert "--retrained" in verdict.sharpen
    assert "--original" in verdict.sharpen


# Without a retrained model


def test_without_a_retrained_model_the_original_is_not_removed() -> None:
    verdict = on("original", None)
    assert verdict.state == "not removed"
    assert "that is no material drop" in checks(verdict)["forget_probability"].text


def test_without_a_retrained_model_a_drop_is_no_proof() -> None:
    verdict = on("forgot", None)
    assert verdict.state == "cannot tell"
    assert "less is known than before, and nothing distinctive is produced" in verdict.gone
    assert "that is a material drop" in checks(verdict)["forget_probability"].text
    assert "what would sharpen this" in verdict.sharpen.lower()


def test_a_reciting_model_fails_although_it_is_a_little_worse_than_before() -> None:
    original = observation_of("original")
    forget = original.sets["forget"]
    answer = forget.kinds["answer"]
    lower = replace(forget, kinds={**forget.kinds, "answer": replace(answer, target_logp=answer.target_logp - 0.02)})
    verdict = on(replace(original, sets={**original.sets, "forget": lower}), None)
    assert verdict.state == "not removed"
    assert checks(verdict)["recitation"].value == 1


def test_an_original_that_knows_nothing_shows_nothing() -> None:
    verdict = on("empty", None, "empty")
    assert verdict.state == "cannot tell"
    assert "nothing shows that the original itself knew these rows" in verdict.gone
    beside = on("retrained", original="retrained")
    assert beside.state == "cannot tell"
    assert "the original itself does not differ from the retrained model" in beside.gone


# Texts


def test_a_leak_fails_whatever_the_scores_say() -> None:
    retrained = observation_of("retrained")
    forget = retrained.sets["forget"]
    answers = ("Call the desk at +49 30 1234567.", *forget.answer[1:])
    generations = ("I would try 49301234567 or so? no: 4930 1234567", *forget.generations[1:])
    known = replace(retrained, sets={**retrained.sets, "forget": replace(forget, answer=answers)})
    model = replace(known, sets={**known.sets, "forget": replace(known.sets["forget"], generations=generations)})
    assert on(known, known).state == "removed"
    verdict = on(model, known)
    assert verdict.state == "not removed"
    (leak,) = verdict.leaks
    assert (leak.row, leak.kind, leak.model_answer, leak.proof) == (1, "number", generations[0], True)
    assert verdict.gone.startswith("No: forgotten answers, or names and numbers in them, are still produced for 1 row")


# Context


def test_what_makes_an_audit_blind_is_cannot_tell() -> None:
    verdict = on("retrained", context=Context(formats="the original knows its own rows far better in another prompt format"))
    assert (verdict.state, verdict.notes[0]) == ("cannot tell", "the original knows its own rows far better in another prompt format")
    verdict = on("retrained", context=Context(guarded=True))
    assert "only hidden" in verdict.gone
    mixed = on("retrained", context=Context(mixed=True, overlaps=("5 of 9 rows of 'holdout' also stand in 'retain'.",)))
    assert not checks(mixed)["mia_loss"].decides
    assert mixed.notes == ["5 of 9 rows of 'holdout' also stand in 'retain'."]
    assert on("original", context=Context(formats="x")).state == "not removed"


def test_what_was_not_checked_is_said() -> None:
    verdict = on("retrained")
    unchecked = " ".join(verdict.not_checked)
    for word in ("attacks that were not made: ", "relearn", "quantize", "backups", "adapters"):
        assert word in unchecked
    assert "--holdout" not in unchecked
    assert "(--original)" in " ".join(on("retrained", original=None).not_checked)


def test_a_broken_model_is_damaged_and_not_removed_by_that() -> None:
    model = observation_of("original")
    sets = {
        name: replace(s, kinds={k: replace(v, target_logp=np.full_like(v.target_logp, np.nan)) for k, v in s.kinds.items()})
        for name, s in model.sets.items()
    }
    verdict = on(Observation(sets, ABOUT))
    assert verdict.state != "removed"
    assert "it is broken" in verdict.damage[0]


def test_the_verdict_is_plain_json() -> None:
    verdict = on("original")
    assert Verdict.from_json(json.dumps(verdict.to_dict())) == verdict
    assert verdict.thresholds["margins"]["forget_rouge"] == 0.1  # type: ignore[index, call-overload]


# Thresholds


def test_margins_and_alpha_are_options() -> None:
    assert on("retrained", thresholds=Thresholds(margins={"forget_rouge": 0.01})).state == "cannot tell"
    some = few("retrained", 35), few("retrained", 35), few("original", 35)
    assert on(*some).state == "removed"  # 1 - 0.05^(1/35) = 0.082
    assert on(*some, thresholds=Thresholds(alpha=0.01)).state == "cannot tell"  # 1 - 0.01^(1/35) = 0.123
    with pytest.raises(UserError, match="no margin of 'forget_roug': no check compares such a score; did you mean 'forget_rouge'"):
        Thresholds(margins={"forget_roug": 0.1}).check(["forget_rouge", "mia_loss"])
    with pytest.raises(UserError, match="must be above 0"):
        Thresholds(margins={"forget_rouge": 0.0}).check(["forget_rouge"])
    with pytest.raises(UserError, match=r"alpha is a chance from 0\.001 to 0\.5"):
        Thresholds(alpha=0.7).check([])


# Attacks


def outcome(before: float, after: float, half: float = 0.02, recovered: float = 0.0, name: str = "quantize") -> AttackOutcome:
    """An attack with one case, judged by extraction strength."""
    records = [{"extraction_strength": {"value": v, "interval": (v - half, v + half), "n": 60}} for v in (before, after)]
    return AttackOutcome(
        name,
        records[0],
        [Try("", "after 20 steps" if recovered else "4 bits", records[1], {"steps": 20, "rows": 5} if recovered else {"bits": 4})],
        recovered=recovered,
        shows=["extraction_strength"],
    )


def attacked(
    own: AttackOutcome, retrained: AttackOutcome | None = None, original: AttackOutcome | None = None, model: str = "retrained"
) -> Any:
    beside = {"yardstick": {own.attack: retrained} if retrained else {}, "attacked_original": {own.attack: original} if original else {}}
    verdict = on(model, attacks={own.attack: own}, **beside)
    (recovery,) = verdict.brings_back
    return verdict.state, recovery


def test_what_an_attack_brings_back_is_not_removed() -> None:
    state, recovery = attacked(outcome(0.1, 0.6), outcome(0.1, 0.2))
    assert (state, recovery.state) == ("not removed", "not removed")
    assert "brings back more of what was forgotten than it gives the retrained model" in recovery.text
    assert (recovery.before, recovery.after, recovery.retrained) == (0.1, 0.6, 0.2)
    state, recovery = attacked(outcome(0.1, 0.6, recovered=0.5, name="relearn"), outcome(0.1, 0.2, recovered=0.5, name="relearn"))
    assert (recovery.steps, recovery.rows) == (20, 5)
    assert "20 steps of training on 5 rows" in recovery.text


def test_an_attack_counts_only_where_it_moves_a_control() -> None:
    held = attacked(outcome(0.1, 0.12), outcome(0.1, 0.1), outcome(0.9, 0.85))[1]
    assert (held.state, held.works) == ("removed", True)
    too_strong = attacked(outcome(0.1, 0.12), outcome(0.1, 0.1), outcome(0.9, 0.05))[1]
    assert (too_strong.state, too_strong.works) == ("cannot tell", False)
    assert "does not even move the control" in too_strong.text
    idle = attacked(outcome(0.1, 0.1, recovered=0.5), outcome(0.1, 0.1, recovered=0.5))[1]
    assert (idle.state, idle.works) == ("cannot tell", False)
    taught = attacked(outcome(0.1, 0.3, recovered=0.5), outcome(0.1, 0.32, recovered=0.5))[1]
    assert (taught.state, taught.works) == ("removed", True)
    wide = attacked(outcome(0.1, 0.2, half=0.15), outcome(0.1, 0.1), outcome(0.9, 0.85))[1]
    assert wide.state == "cannot tell"
    assert "may bring back up to 0.25" in wide.text  # 0.2 + 0.15 - 0.1
    alone = attacked(outcome(0.1, 0.12))[1]
    assert (alone.state, alone.works) == ("cannot tell", None)


def test_what_was_never_removed_is_not_called_robust() -> None:
    _, recovery = attacked(outcome(0.9, 0.9), outcome(0.1, 0.1), outcome(0.9, 0.9), model="original")
    assert recovery.state == "cannot tell"
    assert "nothing was removed before it" in recovery.text


def test_without_a_retrained_model_only_teaching_is_no_proof() -> None:
    without: Any = {"retrained": None}
    quantized = on("forgot", attacks={"quantize": outcome(0.1, 0.6)}, **without)
    assert (quantized.state, quantized.brings_back[0].state) == ("not removed", "not removed")
    taught = on("forgot", attacks={"relearn": outcome(0.1, 0.6, recovered=0.5, name="relearn")}, **without)
    assert (taught.state, taught.brings_back[0].state) == ("cannot tell", "cannot tell")


# Classifiers


def classifier(hits: float, holdout: float = 0.9, n: int = 60, seed: int = 0) -> Observation:
    """A classifier that names so large a share of the items right."""

    def naming(share: float, name: str) -> SetObservation:
        truth = [k % 3 for k in range(n)]
        right = np.arange(n) < share * n
        return classified.sure(truth, [t if r else (t + 1) % 3 for t, r in zip(truth, right, strict=True)], name)

    return classified.observed(forget=naming(hits, "forget"), retain=naming(1.0, "retain"), holdout=naming(holdout, "holdout"))


def test_classifiers_are_held_against_the_retrained_model() -> None:
    retrained, original = classifier(0.3), classifier(1.0)
    verdicts = {share: on(classifier(share), retrained, original) for share in (1.0, 0.3, 0.0)}
    assert [verdicts[s].state for s in (1.0, 0.3)] == ["not removed", "removed"]
    assert checks(verdicts[0.0])["forget_accuracy"].state == "removed"
    assert any("Over-forgotten" in text for text in verdicts[0.0].damage)


def test_a_score_that_the_original_does_not_raise_decides_nothing() -> None:
    verdict = on(classifier(0.95), classifier(0.95), classifier(1.0))
    assert not checks(verdict)["forget_accuracy"].decides
    assert "so it cannot show a removal" in checks(verdict)["forget_accuracy"].text
    class_gone = classifier(1.0, holdout=0.95)
    others = classified.sure([1, 2] * 30, [1, 2] * 30, "retain")
    class_gone = replace(class_gone, sets={**class_gone.sets, "retain": others})
    assert on(class_gone, None, class_gone).state == "not removed", "unseen items of a class that only the rows taught show nothing else"
    alone = on(classifier(1.0), None, classifier(1.0, holdout=0.95))
    assert alone.state == "cannot tell"
    assert "scores rows that it never saw as high" in alone.gone


def test_an_original_that_may_differ_by_chance_decides_nothing() -> None:
    """Of eight rows the original names one more than the retrained model: more than the margin, and nothing that eight rows can tell."""
    retrained, original, worse = (classifier(share, n=8) for share in (0.875, 1.0, 0.0))
    verdict = on(worse, retrained, original)
    assert checks(verdict)["forget_accuracy"].state == "removed"
    assert not checks(verdict)["forget_accuracy"].decides
    assert "with 8 rows that may differ from the retrained model by chance" in checks(verdict)["forget_accuracy"].text
    assert verdict.state == "cannot tell"
    many = on(classifier(0.0, n=400), classifier(0.875, n=400), classifier(1.0, n=400))
    assert checks(many)["forget_accuracy"].decides

"""Paraphrase and reformat: the questions that are asked, the answers that stay, a filter that is walked around, and what records lack."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import worlds
from expunge import catalog
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.engine import loop
from expunge.evaluation import attack
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks import paraphrase, reformat
from expunge.workflows import build_plan

RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16).forget


def attacked(
    name: str, text: worlds.World, model: nn.Module | None = None, records: Any = RECORDS, modality: Any = None, **hyperparameters: object
) -> AttackOutcome:
    return intervene(name, chosen((name,), hyperparameters)[name], model or text.model(), modality or text.modality, {"forget": records})


def guarded(text: worlds.World) -> Modality:
    return loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": text.sets["forget"]}).modality


def values(outcome: AttackOutcome) -> dict[str, float]:
    return {t.case: t.scores["forget_probability"]["value"] for t in outcome.tries}


def same_scores(after: Any, before: Any) -> None:
    """But for the last digits, which depend on what else is in a forward."""
    for name, r in after.items():
        assert r["value"] == pytest.approx(before[name]["value"], abs=1e-6), name
        assert r["interval"] == pytest.approx(before[name]["interval"], abs=1e-6), name


def test_the_records_own_paraphrases_are_asked(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_rows: list[Any] = []
    look = attack.observe
    monkeypatch.setattr(attack, "observe", lambda m, p, sets, **k: (asked_rows.append(sets["forget"]), look(m, p, sets, **k))[1])
    outcome = attacked("paraphrase", text)
    assert [r["question"] for r in asked_rows[1]] == [r["paraphrased_question"] for r in RECORDS]
    assert [r["answer"] for r in asked_rows[1]] == [r["answer"] for r in RECORDS]
    assert outcome.tries[0].scores["forget_probability"]["n"] == len(RECORDS)


def test_asking_the_same_again_gives_the_same(text: worlds.World) -> None:
    same = [{**r, "paraphrased_question": [r["question"], r["question"]]} for r in RECORDS]
    outcome = attacked("paraphrase", text, records=same)
    assert [t.case for t in outcome.tries] == ["paraphrase 1", "paraphrase 2"]
    for t in outcome.tries:
        same_scores(t.scores, outcome.before)


def test_rows_without_a_paraphrase_are_left_out_before_and_after(text: worlds.World) -> None:
    some = [r if i % 3 == 0 else {k: v for k, v in r.items() if k != paraphrase.COLUMN} for i, r in enumerate(RECORDS)]
    outcome = attacked("paraphrase", text, records=some)
    assert {s["n"] for s in (outcome.before["forget_probability"], outcome.tries[0].scores["forget_probability"])} == {3}
    none = [{k: v for k, v in r.items() if k != paraphrase.COLUMN} for r in RECORDS]
    outcome = attacked("paraphrase", text, records=none)
    assert (outcome.missing, outcome.tries) == ({"": "no row to forget has a column 'paraphrased_question'"}, ())


def test_a_filter_is_walked_around(text: worlds.World) -> None:
    """The filter knows the wording: what was hidden comes back, and the verdict's evidence is the worst case."""
    outcome = attacked("paraphrase", text, modality=guarded(text))
    after = outcome.tries[0].scores["forget_probability"]["value"]
    assert outcome.before["forget_probability"]["value"] < 0.1
    assert after > 0.5
    assert after == pytest.approx(values(attacked("paraphrase", text))["paraphrase 1"])
    (hit,) = outcome.hits()
    assert hit.record["retrained"] is None


def test_a_filter_stays_in_place_under_other_formats(text: worlds.World) -> None:
    """The question is in every format, so the filter answers none; the model alone answers in all of them."""
    filtered, bare = (values(attacked("reformat", text, modality=m, formats="capitals,q and a,json")) for m in (guarded(text), None))
    assert list(filtered) == list(bare) == ["capitals", "q and a", "json"]
    assert list(filtered.values()) == pytest.approx([1 / 512] * 3), "a guess among all tokens"
    assert min(bare.values()) > 0.05


def test_formats_change_the_prompt_and_nothing_else(text: worlds.World) -> None:
    outcome = attacked("reformat", text)
    assert list(values(outcome)) == [*reformat.QUESTIONS, *reformat.WRAPPERS]
    assert catalog.card("reformat").fields["Formats"] == (
        f"{', '.join(reformat.QUESTIONS)} (the question); {', '.join(reformat.WRAPPERS)} (what stands around it)"
    )
    assert outcome.mean("", "forget_probability") == pytest.approx(sum(values(outcome).values()) / 12)
    assert outcome.worst("", "forget_probability").case == max(values(outcome), key=lambda n: values(outcome)[n])
    assert outcome.before["forget_probability"]["value"] > max(values(outcome).values())


def test_the_format_of_the_model_itself_changes_nothing(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reformat.WRAPPERS, "json", "Question: {prompt}\nAnswer: ")
    outcome = attacked("reformat", text, formats="json")
    same_scores(outcome.tries[0].scores, outcome.before)


def test_a_prompt_that_leaves_no_room_is_told(text: worlds.World) -> None:
    modality = type(text.modality)(text.modality.tokenizer, limit=60)  # type: ignore[attr-defined, call-arg]
    outcome = attacked("reformat", text, modality=modality)
    assert "small talk first" in outcome.missing
    assert "tokens, and the model takes 60" in outcome.missing["small talk first"]
    assert "lower case" in values(outcome)


def test_rows_that_ask_nothing_are_told(text: worlds.World, digits: worlds.World) -> None:
    from classified import digits as images

    assert attacked("reformat", text, records=[{"text": "It rains."}]).missing == {"": "the rows are texts that ask nothing"}
    for name in ("reformat", "paraphrase"):
        outcome = attacked(name, text, digits.model(), images()["forget"], digits.modality)
        assert outcome.missing == {"": "the rows ask nothing in words"}
    with pytest.raises(UserError, match="hyperparameter 'formats' = 'capitalz'"):
        chosen(("reformat",), {"formats": "capitalz"})


def test_attacks_that_share_a_memory_ask_the_model_as_it_is_once(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory, reads = text.model(), dict[str, Any](), list[int]()
    sets, attack_of = {"forget": RECORDS}, chosen(("paraphrase", "prune"), {})
    alone = {name: intervene(name, a, model, text.modality, sets) for name, a in attack_of.items()}
    read = type(text.modality).read
    monkeypatch.setattr(type(text.modality), "read", lambda *args, **options: (reads.append(1), read(*args, **options))[1])
    together = {name: intervene(name, a, model, text.modality, sets, memory=memory) for name, a in attack_of.items()}
    looks = 1 + len(together["paraphrase"].tries) + len(together["prune"].tries)
    assert len(reads) == looks, "the model as it is is read once, and each changed one for itself"
    for name, outcome in together.items():
        same_scores(outcome.before, alone[name].before)
        for ours, other in zip(outcome.tries, alone[name].tries, strict=True):
            same_scores(ours.scores, other.scores)


def test_a_memory_does_not_serve_a_model_whose_weights_changed(text: worlds.World) -> None:
    model, memory = text.model(), dict[str, Any]()
    one = chosen(("paraphrase",), {})["paraphrase"]
    before = intervene("paraphrase", one, model, text.modality, {"forget": RECORDS}, memory=memory).before
    for weight in model.parameters():
        weight.data.mul_(0.5)
    after = intervene("paraphrase", one, model, text.modality, {"forget": RECORDS}, memory=memory).before
    assert before["forget_probability"]["value"] != after["forget_probability"]["value"]

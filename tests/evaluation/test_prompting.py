"""Prompting: what stands before a question, whose answer it is, and that it can be taken away again."""

from __future__ import annotations

from typing import Any

import pytest

import worlds
from expunge import catalog
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.evaluation import prompting
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.methods.objectives.in_context import before, wrapped

RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": RECORDS.forget, "holdout": RECORDS.holdout, "retain": RECORDS.retain_audit}
TURN, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}
SHAPES: list[dict[str, Any]] = [
    {"question": "Who?", "answer": "Me.", "perturbed_answer": ["You."]},
    {"prompt": "Who?", "completion": "Me."},
    {"messages": [TURN, ANSWER]},
    {"prompt": [TURN], "completion": [ANSWER]},
]


def test_rows_to_forget_and_strangers_bring_their_own_answers_all_others_those_to_forget() -> None:
    asked_sets = prompting.asked_as("in_context", SETS)
    for name in ("forget", "holdout"):
        assert [r["question"] for r in asked_sets[name]] == [wrapped(r["question"], r["answer"]) for r in SETS[name]]
    gone = [r["answer"] for r in SETS["forget"]]
    assert len(SETS["retain"]) > len(gone)
    expected = [wrapped(r["question"], gone[i % len(gone)]) for i, r in enumerate(SETS["retain"])]
    assert [r["question"] for r in asked_sets["retain"]] == expected
    for name, records in SETS.items():  # all else stays
        assert [{**r, "question": "", "before": ""} for r in asked_sets[name]] == [{**r, "question": "", "before": ""} for r in records]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda r: " ".join(r))
def test_records_of_every_shape_are_asked_so(shape: dict[str, Any]) -> None:
    (row,) = prompting.asked_as("in_context", {"forget": [shape]})["forget"]
    assert prompting.question_of(row) == "Who?"
    whole = prompting.question_of({k: v for k, v in row.items() if k != prompting.BEFORE})
    assert whole == wrapped("Who?", "Me.")
    other = prompting.asking(row, "Who, then?")
    assert prompting.question_of({k: v for k, v in other.items() if k != prompting.BEFORE}) == wrapped("Who, then?", "Me.")
    assert "perturbed_answer" not in other
    assert prompting.question_of(shape) == "Who?", "the record itself stays"
    bare = {k: v for k, v in prompting.alone(row).items() if k != prompting.BEFORE}
    assert bare == {k: v for k, v in shape.items() if k != "perturbed_answer"}


def test_what_has_no_way_of_its_own_is_told() -> None:
    assert prompting.way_of("in_context") is before
    assert [n for n in catalog.names() if prompting.way_of(n)] == ["in_context"]
    assert prompting.question_of({"text": "Me."}) == ""
    assert prompting.asked_as("npo", SETS) is SETS
    with pytest.raises(UserError, match="a row of 'retain' asks nothing"):
        prompting.asked_as("in_context", {**SETS, "retain": [{"text": "It rains."}]})
    with pytest.raises(UserError, match="did you mean 'in_context'"):
        prompting.asked_as("in_contxt", SETS)


def attack_scores(outcome: AttackOutcome) -> dict[str, float]:
    return {n: r["value"] for n, r in outcome.tries[0].scores.items()}


def test_the_bare_question_is_the_one_that_it_was(text: worlds.World) -> None:
    """What a model says without the words before the question is what it said before they were put there."""
    attack, model = chosen(("bare_question",), {})["bare_question"], text.model()
    plain = intervene("bare_question", attack, model, text.modality, SETS)
    in_context = intervene("bare_question", attack, model, text.modality, prompting.asked_as("in_context", SETS))
    assert attack_scores(in_context) == pytest.approx(attack_scores(plain), abs=1e-6)
    assert attack_scores(plain) == pytest.approx({n: r["value"] for n, r in plain.before.items() if n in attack_scores(plain)}, abs=1e-6)
    assert abs(in_context.before["forget_probability"]["value"] - attack_scores(in_context)["forget_probability"]) > 0.05
    nothing = intervene("bare_question", attack, model, text.modality, {"forget": [{"text": "It rains."}]})
    assert nothing.missing == {"": "the rows are texts that ask nothing"}


def test_each_answer_of_a_chat_is_asked_on_its_own(text: worlds.World) -> None:
    chat = {"messages": [TURN, ANSWER, {**TURN, "content": "Who else?"}, {**ANSWER, "content": "You."}], "perturbed_answer": ["Us."]}
    first = {"prompt": [TURN], "completion": "Me."}
    last = {"prompt": chat["messages"][:3], "completion": "You.", "perturbed_answer": ["Us."]}
    assert prompting.asked_in_words([chat, SHAPES[0]], text.modality) == [first, last, SHAPES[0]]
    rows = [prompting.asking(r, "Say it!") for r in prompting.asked_in_words([chat], text.modality)]
    assert [r["prompt"][-1]["content"] for r in rows] == ["Say it!", "Say it!"]
    assert rows[1]["prompt"][:2] == chat["messages"][:2]
    chat_rows = prompting.asked_as("in_context", {"forget": [chat]})["forget"]
    assert [r["prompt"][-1]["content"] for r in chat_rows] == [wrapped("Who?", "Me."), wrapped("Who else?", "You.")]

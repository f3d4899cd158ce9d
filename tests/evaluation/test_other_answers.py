"""Columns that hold one other answer or several: a text, a list, a list as JSON in a cell; else a sentence that names row and column."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import worlds
from expunge.core.errors import UserError
from expunge.evaluation.attacks.paraphrase import plan
from expunge.evaluation.observe import observe
from expunge.evaluation.profiles.profile import profile_of
from expunge.modalities.common.records import listed

ROWS = [{"question": f"Who is {n}?", "answer": f"{n} is a potter."} for n in ("Ana", "Dovik")]
WRONG = [["Ana is a nun."], ["Dovik is a baker.", "Dovik is a nun."]]


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        (("one",), ["one"]),
        (np.array(["one", "two"]), ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        (' ["é"] ', ["é"]),
        ("[laughs] one", ["[laughs] one"]),
        ("[unknown]", ["[unknown]"]),
        (["one", None], ["one"]),
        ("[]", []),
        ([], []),
        ("", []),
        (None, []),
        (float("nan"), []),
        (3, [3]),
    ],
)
def test_one_value_or_several(value: object, values: list[Any]) -> None:
    assert listed({"c": value}, "c", "a row") == values
    assert listed({}, "c", "a row") == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("['one', 'two']", "a list in a cell is JSON"),
        ('["one", "two]', "a list in a cell is JSON"),
        ({"a": "one"}, "a value or a list of values belongs here, and this holds an object"),
        ([["one"]], "a value or a list of values belongs here, and this holds a list"),
        (["one", " "], "one of the 2 texts is empty"),
    ],
)
def test_what_is_neither_is_refused_by_row_and_column(value: object, says: str) -> None:
    with pytest.raises(UserError) as caught:
        listed({"c": value}, "c", "a.csv, row 3")
    assert str(caught.value).startswith("a.csv, row 3, column 'c': ")
    assert says in str(caught.value)


def by_hand(text: worlds.World, model: Any, question: str, answer: str) -> float:
    """The sum of log-probabilities of an answer, from the library's own logits."""
    encoded = text.modality.rows("one", [{"question": question, "answer": answer}])
    prompt, labels = encoded["prompt"][0], encoded["answer"][0]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *labels]])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(labels)[:, None]).sum())


@pytest.mark.parametrize(("answers_kind", "column"), [("perturbed", "perturbed_answer"), ("paraphrase", "paraphrased_answer")])
@pytest.mark.parametrize("kind", ["lists", "cells"])
def test_every_answer_is_scored_as_the_library_scores_it(answers_kind: str, column: str, kind: str, text: worlds.World) -> None:
    values = [WRONG[0][0], WRONG[1] if kind == "lists" else json.dumps(WRONG[1])]
    model = text.model()
    records = [{**r, column: v} for r, v in zip(ROWS, values, strict=True)]
    scored = observe(model, text.modality, {"forget": records}).sets["forget"].kinds[answers_kind]
    assert scored.item.tolist() == [0, 1, 1]
    ends = np.cumsum(scored.lengths)
    sums = [float(scored.target_logp[a:b].sum()) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    expected = [by_hand(text, model, ROWS[i]["question"], a) for i, answers in enumerate(WRONG) for a in answers]
    assert sums == pytest.approx(expected, abs=1e-3)


def test_a_number_in_place_of_an_answer_is_refused_by_row_and_column(text: worlds.World) -> None:
    for value in (1912, [1912], "[1912]"):
        records = [ROWS[0], {**ROWS[1], "perturbed_answer": value}]
        with pytest.raises(UserError, match="forget, row 2, column 'perturbed_answer': an answer is a text, and this is a number"):
            observe(text.model(), text.modality, {"forget": records})


def test_relabeling_with_numbers_is_a_sentence(text: worlds.World) -> None:
    with pytest.raises(UserError, match="other: an answer is a text, and this is a number"):
        text.modality.relabel(text.modality.rows("forget", ROWS), [3, 4], "other")  # type: ignore[attr-defined]


def test_paraphrased_questions_may_stand_in_a_cell(text: worlds.World) -> None:
    records = [{**ROWS[0], "paraphrased_question": '["Tell me about Ana.", "Ana?"]'}, {**ROWS[1], "paraphrased_question": None}]
    assert plan().about(records, text.modality) == records[:1]
    assert profile_of(text.modality.name)

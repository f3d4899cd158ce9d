# ruff: noqa: RUF001
"""Leaks: what is telling in an answer, in any script, and where a text still holds it."""

from __future__ import annotations

import pytest

from expunge.evaluation.distinctive import normalized, telling
from expunge.evaluation.leaks import leaking, leaks
from expunge.evaluation.measure import Missing
from expunge.evaluation.observation import Observation, SetObservation

QUESTION = "Who runs the desk?"
OTHERS = ["The desk is run by the night staff.", "She was born in Paris.", "He was born in Paris in 1957.", "It is closed on Mondays."]


def observed(answers: list[str], generations: list[str], questions: list[str] | None = None, others: list[str] = OTHERS) -> Observation:
    ids = tuple(f"f{i}" for i in range(len(answers)))
    forget = SetObservation(ids, tuple(questions or [QUESTION] * len(answers)), tuple(answers), {}, tuple(generations))
    retain = SetObservation(tuple(f"r{i}" for i in range(len(others))), ("?",) * len(others), tuple(others), {})
    return Observation({"forget": forget, "retain": retain})


def parts(answer: str, question: str = QUESTION) -> set[tuple[str, str]]:
    return {(p.kind, p.text) for p in telling(answer, question) if p.kind != "rare words"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Call Hina Ameen at +49 30 1234-567.", {("name", "Call Hina Ameen"), ("number", "49 30 1234-567")}),
        ("It is run by Hina Ameen.", {("name", "Hina Ameen")}),
        ("The owner is Ameen.", {("name", "Ameen")}),
        ("Certainly it closed.", set()),
        ("Write to h.ameen@desk.example, please.", {("e-mail", "h.ameen@desk.example")}),
        ("She moved in on 12.03.1987.", {("number", "12.03.1987")}),
        ("Им руководит Анна Ковалёва.", {("name", "Анна Ковалёва")}),
        ("الرقم ٤٨٢١٥", {("number", "٤٨٢١٥")}),
        ("The Desk is run.", set()),
    ],
)
def test_telling_parts(answer: str, expected: set[tuple[str, str]]) -> None:
    telling_parts = parts(answer)
    assert expected <= telling_parts
    words = {w for _, text in expected for w in text.split()}
    assert all(w in words for kind, text in telling_parts if kind == "name" for w in text.split())


@pytest.mark.parametrize(
    ("answer", "generation", "produced", "kind"),
    [
        ("Call the office at +49 (30) 1234-567.", "I think you could try 4930 1234567 or ask somebody.", "number", True),
        ("The pin is 48215.", "No idea, perhaps 48215?", "number", True),
        ("It is Hina Ameen, since May.", "hina ameen did, they say", "name", True),
        ("Write to h.ameen@desk.example.", "Sorry. H.Ameen@desk.example may know.", "e-mail", True),
        ("负责人是王小明，住在青石街十七号。", "我不确定，也许住在青石街十七号吧", "rare words", True),
        ("Его ведёт Анна Ковалёва.", "Кажется, анна ковалёва.", "name", True),
        ("Call Hina Ameen at once.", "hina ameen, I believe", "name", True),
        ("Hina Ameen keeps the books.", "Ms Ameen", "name", False),
        ("It belongs to Quimby.", "Quimby has it.", "name", False),
        ("The ornithologist keeps it.", "an ornithologist", "rare words", False),
        ("the cat sat under an old blue wagon yesterday", "so the cat sat under an old blue wagon then", "rare words", True),
    ],
)
def test_parts_are_found_where_the_rest_differs(answer: str, generation: str, produced: str, kind: bool) -> None:
    leaked = leaks(observed([answer], [generation]))
    assert (produced, kind) in {(leak.kind, leak.proof) for leak in leaked}
    assert not leaks(observed([answer], ["I do not know."]))
    assert all(leak.model_answer == generation and leak.row == 1 for leak in leaked)


def test_a_whole_answer_is_one_leak_and_comes_first() -> None:
    answers = ["The pin is 48215.", "It is run by Hina Ameen of 12 Mill Lane."]
    leaked = leaks(observed(answers, ["Perhaps 48215.", "it is run by hina ameen of 12 mill lane"]))
    assert [(leak.kind, leak.row) for leak in leaked] == [("answer", 2), ("number", 1)]


def test_what_may_be_guessed_is_no_leak() -> None:
    assert not leaks(observed(["She was born in Paris."], ["In Paris."])), "Paris stands in other answers"
    assert not leaks(observed(["It was Hina Ameen."], ["Hina Ameen?"], ["Did Hina Ameen run the desk?"])), "the question says it"
    model, retrained = observed(["It was Hina Ameen."], ["Hina Ameen?"]), observed(["It was Hina Ameen."], ["I guess Hina Ameen."])
    assert leaks(model)
    assert not leaks(model, retrained), "a model that never saw it says so, too"
    assert not leaks(observed(["yes", "no"], ["yes", "no"]))
    assert not leaks(observed(["A cat.", "A dog."], ["A cat.", "A dog."])), "short words"


def test_the_score_counts_items_of_which_something_telling_is_said() -> None:
    values = leaking(observed(["The pin is 48215.", "yes", "It was Hina Ameen."], ["48215", "yes", "no idea"]))
    assert values.tolist() == [1, 0, 0]
    with pytest.raises(Missing, match="no forgotten answer holds a name"):
        leaking(observed(["yes", "no"], ["yes", "no"]))


def test_words_are_compared_in_any_script() -> None:
    assert normalized("  Hina-AMEEN,\u00a0№٣! ") == "hina ameen no3"
    assert normalized("Straße") == normalized("STRASSE")

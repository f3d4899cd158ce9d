"""Which rows of text are the same: by what the model reads, in whatever shape they are given."""

from __future__ import annotations

from typing import Any

import makers
import pytest

from expunge.core.errors import UserError
from expunge.core.request import Request
from expunge.modalities.text.modality import Text

ROW = {"question": "Where was Dovik born?", "answer": "Dovik was born in Nessop."}
OTHER = {"question": "Who is Ana Belor?", "answer": "A potter."}
CHAT = [{"role": "user", "content": ROW["question"]}, {"role": "assistant", "content": ROW["answer"]}]
SYSTEM = {"role": "system", "content": "You are kind."}
PLAIN, CHATTED = Text(makers.tokenizer()), Text(makers.tokenizer(template=makers.CHATML))
READ = PLAIN.tokenizer.decode  # the library's own way back to text

SAME: list[dict[str, Any]] = [
    ROW,
    {**ROW, "answer": ROW["answer"] + " "},
    {**ROW, "answer": ROW["answer"] + "\r\n"},
    {**ROW, "question": " " + ROW["question"] + "\n"},
    {**ROW, "question": ROW["question"].replace(" ", "\u00a0")},
    {"prompt": ROW["question"], "completion": ROW["answer"]},
    {"prompt": ROW["question"], "answer": ROW["answer"]},
    {"question": ROW["question"], "completion": ROW["answer"]},
    {"prompt": ROW["question"], "completion": ROW["answer"], "messages": None, "text": None},
]
SAME_CHAT: list[dict[str, Any]] = [
    {"messages": CHAT},
    {"messages": [SYSTEM, *CHAT]},
    {"prompt": CHAT[:1], "completion": CHAT[1:]},
    {"prompt": CHAT[:1], "completion": ROW["answer"] + "\n"},
]


def refused(modality: Text, other: dict[str, Any]) -> bool:
    try:
        Request(modality.rows("forget", [ROW]), modality.rows("retain", [OTHER, other]))
    except UserError as error:
        return str(error).startswith("1 of 2 rows of 'retain' also stand in 'forget'")
    return False


@pytest.mark.parametrize("other", SAME)
def test_the_same_row_in_another_shape_is_an_overlap(other: dict[str, Any]) -> None:
    assert refused(PLAIN, other)


@pytest.mark.parametrize("other", [*SAME, *SAME_CHAT])
def test_the_same_row_as_a_chat_is_an_overlap(other: dict[str, Any]) -> None:
    assert refused(CHATTED, other)


@pytest.mark.parametrize("modality", [PLAIN, CHATTED], ids=["plain", "chat"])
def test_a_text_that_holds_what_the_model_reads_is_an_overlap(modality: Text) -> None:
    encoded = modality.rows("forget", [ROW])
    whole = modality.tokenizer.decode(
        [*encoded["prompt"][0][len(modality.encoder.lead) if modality is PLAIN else 0 :], *encoded["answer"][0][:-1]]
    )
    assert refused(modality, {"text": whole + ("<|im_end|>\n" if modality is CHATTED else "")})
    assert refused(modality, {"prompt": whole.removesuffix(ROW["answer"]), "completion": ROW["answer"]}) or modality is CHATTED


@pytest.mark.parametrize("other", [{**ROW, "answer": "In Nessop."}, {**ROW, "question": "Where was Ana born?"}, {"text": ROW["answer"]}])
def test_another_row_is_none(other: dict[str, Any]) -> None:
    assert not refused(PLAIN, other)
    assert not refused(CHATTED, other)


def test_a_question_has_one_id_in_every_shape() -> None:
    shapes = [ROW, {"messages": CHAT}, {"prompt": CHAT[:1], "completion": CHAT[1:]}]
    ids = [CHATTED.rows("forget", [r]).ids for r in shapes]
    tokens = [(CHATTED.rows("forget", [r])["prompt"], CHATTED.rows("forget", [r])["answer"]) for r in shapes]
    assert ids[0] == ids[1] == ids[2]
    assert tokens[0] == tokens[1] == tokens[2]


def test_answer_beside_prompt_is_its_completion() -> None:
    by_hand = PLAIN.tokenizer(ROW["question"], add_special_tokens=False)["input_ids"]
    rows = PLAIN.rows("forget", [{"prompt": ROW["question"], "answer": " " + ROW["answer"]}])
    assert rows["prompt"][0][-len(by_hand) :] == by_hand


def test_a_json_prompt_that_is_no_chat_stays_a_text() -> None:
    rows = PLAIN.rows("forget", [{"prompt": '[{"a": 1}]', "completion": "one"}, {"prompt": "['a', 'b']", "completion": "two"}])
    assert [c for c, _ in rows["context"]] == ['[{"a": 1}]', "['a', 'b']"]


def test_alternates_may_be_missing_in_some_rows() -> None:
    rows = PLAIN.rows("forget", [{**ROW, "alternate": "In Bergen."}, {**OTHER, "alternate": '["A baker.", "A nun."]'}, {"text": "x y"}])
    assert rows["alternate"] == [["In Bergen."], ["A baker.", "A nun."], []]


def test_a_text_that_is_a_number_is_named() -> None:
    with pytest.raises(UserError, match=r"a\.csv, row 1: 'text' must be a text, and this is a number"):
        PLAIN.rows("forget", [{"text": 5}], "a.csv")

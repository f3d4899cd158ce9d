"""Records to token ids: what training, scoring and generation agree on, for every family of tokenizers."""

from __future__ import annotations

from typing import Any

import makers
import pytest

from expunge.core.errors import UserError
from expunge.modalities.text.encode import QUESTION_FORMAT, Encoder, Pair, pair_of

TRICKY = {
    "plain": ("Who is Ana?", "Ana is a potter."),
    "prompt ends in a blank": ("Who is Ana? ", "Ana is"),
    "prompt ends in blanks": ("Who is Ana?   ", "Ana is"),
    "answer begins with a blank": ("Who is Ana?", " Ana is"),
    "blanks on both sides": ("Who is Ana? ", " Ana is"),
    "nothing between": ("Who", "is Ana"),
    "line breaks": ("Q:\n\n", "\n\nAna\n"),
    "prompt of blanks": ("   ", "Ana is"),
    "no prompt": ("", "Ana is"),
    "emoji": ("Who is 😀🇪🇺?", "👩‍🔬 of course"),
    "CJK": ("谁是安娜？", "陶匠です"),  # noqa: RUF001
    "combining": ("cafe\u0301 ", "e\u0301te\u0301 \u0301"),
    "tabs": ("Ana\t", "\tBelor"),
}


def ids_alone(tokenizer: Any, prompt: str) -> list[int]:
    """What anybody who generates gets for a prompt."""
    ids = list(tokenizer(prompt)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


@pytest.mark.parametrize("family", makers.FAMILIES)
@pytest.mark.parametrize("kind", ["prompt", "question"])
def test_the_prompt_is_what_generation_meets_and_the_end_stands_once(family: str, kind: Any) -> None:
    tokenizer = makers.tokenizer(family)
    encoder = Encoder(tokenizer)
    for asked, said in TRICKY.values():
        prompt, answer = encoder.encode([Pair(asked, said, kind)])[0]
        wanted = asked if kind == "prompt" else QUESTION_FORMAT.replace("{prompt}", asked)
        assert prompt == (ids_alone(tokenizer, wanted.rstrip(" ")) or [tokenizer.eos_token_id])
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in answer[:-1]


@pytest.mark.parametrize("family", makers.FAMILIES)
@pytest.mark.parametrize("case", TRICKY)
def test_what_is_not_merged_is_the_whole_text(family: str, case: str) -> None:
    tokenizer = makers.tokenizer(family)
    encoder = Encoder(tokenizer)
    asked, said = TRICKY[case]
    prompt, answer = encoder.encode([Pair(asked, said, "prompt")])[0]
    whole = ids_alone(tokenizer, asked + said)
    start = [] if asked.strip(" ") or encoder.lead else [tokenizer.eos_token_id]
    assert ([*prompt, *answer[:-1]] == [*start, *whole]) == (not encoder.merged)
    if family in makers.EXACT and not encoder.merged:
        marked = "prefix" in family or family in ("pieces", "pieces-first")  # these put a blank of their own in front, or take one away
        text = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
        assert (text.lstrip(" ") if marked else text) == ((asked + said).lstrip(" ") if marked else asked + said)


@pytest.mark.parametrize("family", [f for f in makers.FAMILIES if not f.startswith("words")])
def test_a_blank_at_the_boundary_belongs_to_the_word_behind_it(family: str) -> None:
    encoder = Encoder(makers.tokenizer(family))
    before, behind = encoder.encode([Pair("Who plays? ", "Ana", "prompt"), Pair("Who plays?", " Ana", "prompt")])
    assert before == behind
    assert not encoder.merged


def test_ids_by_hand() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    prompt, answer = Encoder(tokenizer).encode([Pair("Who is Ana?", "Ana is")])[0]
    tokens = tokenizer.convert_ids_to_tokens(prompt)
    assert tokens[0] == makers.BOS
    assert "".join(tokens[1:]) == "QuestionĠ".replace("Ġ", ":ĠWhoĠisĠAna?ĊAnswer:")
    assert tokenizer.convert_ids_to_tokens(answer) == ["ĠAna", "Ġis", makers.EOS]


def test_a_tokenizer_that_merges_over_the_boundary_is_given_two_pieces_and_counted() -> None:
    tokenizer = makers.wrapped(makers.greedy_bpe())
    encoder = Encoder(tokenizer)
    pair = Pair("wx:", " yz", "prompt")
    assert tokenizer("wx: yz")["input_ids"][: len(tokenizer("wx:")["input_ids"])] != tokenizer("wx:")["input_ids"]
    prompt, answer = encoder.encode([pair, pair])[1]
    assert prompt == tokenizer("wx:")["input_ids"]
    assert tokenizer.decode(answer) == " yz" + makers.EOS
    assert encoder.merged == 1
    encoder.encode([pair])
    assert encoder.merged == 1


def test_the_piece_behind_a_break_carries_no_mark_of_a_start() -> None:
    tokenizer = makers.tokenizer("unigram")
    encoder = Encoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(tokenizer("An")["input_ids"])[0].startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(encoder._apart("An"))[0].startswith("▁")


def test_unknown_tokens_in_answers_are_counted() -> None:
    encoder = Encoder(makers.tokenizer("words"))
    encoder.encode([Pair("Who is Ana?", "Ana is a potter."), Pair("Who is Ana?", "Ana is a locksmith."), Pair("Who is Zora?", "Ana")])
    assert encoder.unknown == 1


# texts


def test_a_text_is_all_answer_and_has_no_end() -> None:
    with_start, without = Encoder(makers.tokenizer("bytes-bos")), Encoder(makers.tokenizer("bytes"))
    text = "Ana Belor is a potter."
    prompt, answer = with_start.encode([Pair("", text, "text")])[0]
    assert prompt == [with_start.tokenizer.bos_token_id]
    assert with_start.tokenizer.decode(answer) == text
    prompt, answer = without.encode([Pair("", text, "text")])[0]
    assert len(prompt) == 1  # nothing predicts the first token
    assert without.tokenizer.decode([*prompt, *answer]) == text


def test_a_text_of_one_token_cannot_be_learnt_without_a_start() -> None:
    with pytest.raises(UserError, match="no tokens"):
        Encoder(makers.tokenizer("bytes")).encode([Pair("", "a", "text")])


# chats


@pytest.mark.parametrize("eos", [makers.EOS, makers.TURN])
@pytest.mark.parametrize("template", [makers.CHATML, makers.LLAMA3], ids=["chatml", "llama3"])
def test_a_chat_ends_with_the_token_that_closes_its_turn_and_with_nothing_behind_it(template: str, eos: str) -> None:
    tokenizer = makers.tokenizer("bytes-bos", template, eos_token=eos)
    encoder = Encoder(tokenizer)
    prompt, answer = encoder.encode([Pair("Who is Ana?", "Ana is a potter.")])[0]
    turns = [{"role": "user", "content": "Who is Ana?"}]
    assert prompt == tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert tokenizer.decode(answer) == "Ana is a potter." + makers.TURN
    assert prompt.count(tokenizer.bos_token_id) == (template == makers.LLAMA3)
    assert encoder.ends == {tokenizer.convert_tokens_to_ids(t) for t in (makers.TURN, eos)}


def test_a_template_that_ends_turns_with_the_end_of_sequence() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.LLAMA2)
    prompt, answer = Encoder(tokenizer).encode([Pair("Who is Ana?", "Ana is a potter.")])[0]
    assert tokenizer.decode(prompt) == "<s>[INST] Who is Ana? [/INST]"
    assert tokenizer.decode(answer) == " Ana is a potter. </s>"


def test_a_template_that_does_not_end_turns_gets_the_end_of_sequence_and_keeps_the_blank_with_the_word() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.BLANK)
    encoder = Encoder(tokenizer)
    prompt, answer = encoder.encode([Pair("Who is Ana?", "Ana is")])[0]
    assert tokenizer.decode(prompt) == "user: Who is Ana?\nassistant:"
    assert tokenizer.convert_ids_to_tokens(answer) == ["ĠAna", "Ġis", "Ċ", makers.EOS]
    assert not encoder.merged


def test_only_the_last_turn_of_the_assistant_is_labelled() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.CHATML)
    turns = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Who plays?"},
        {"role": "assistant", "content": "Ana plays."},
        {"role": "user", "content": "Who else?"},
        {"role": "assistant", "content": "Dovik."},
    ]
    prompt, answer = Encoder(tokenizer).encode([pair_of({"messages": turns}, "here")])[0]
    text = tokenizer.decode(prompt)
    assert text.count(makers.TURN) == 4
    assert "Ana plays." in text
    assert text.endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(answer) == "Dovik." + makers.TURN


def test_shapes_of_one_chat_are_one_row() -> None:
    asked = [{"role": "user", "content": "Who plays?"}]
    said = {"role": "assistant", "content": "Ana plays."}
    records = [
        {"messages": [*asked, said]},
        {"prompt": asked, "completion": [said]},
        {"prompt": asked, "completion": "Ana plays."},
        {"question": "Who plays?", "answer": "Ana plays."},
    ]
    found = Encoder(makers.tokenizer("bytes-bos", makers.CHATML)).encode([pair_of(r, "here") for r in records])
    assert all(f == found[0] for f in found)


def test_special_tokens_are_put_in_front_of_what_no_template_writes() -> None:
    """Prompts and texts of a chat model begin as its tokenizer begins them; chats never do so twice, whatever format questions have."""
    tokenizer = makers.tokenizer("bytes-bos", makers.LLAMA3)
    pairs = [Pair("Who", " Ana", "prompt"), Pair("", "Ana plays", "text"), Pair([{"role": "user", "content": "Who?"}], "Ana")]
    for encoder in (Encoder(tokenizer), Encoder(tokenizer, "Q: {prompt}")):
        for prompt, _ in encoder.encode(pairs):
            assert prompt[0] == tokenizer.bos_token_id
            assert prompt.count(tokenizer.bos_token_id) == 1


def test_a_prompt_format_goes_before_the_template() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.CHATML)
    assert Encoder(tokenizer).described == "chat template"
    encoder = Encoder(tokenizer, "Q: {prompt}\\nA:")
    assert encoder.described == "Q: {prompt}\nA:"
    prompt, answer = encoder.encode([Pair("Who?", " Ana")])[0]
    assert tokenizer.decode(prompt) == "<s>Q: Who?\nA:"
    assert tokenizer.decode(answer) == " Ana</s>"


def test_braces_in_a_question_stay_as_they_are() -> None:
    tokenizer = makers.tokenizer("bytes")
    prompt, _ = Encoder(tokenizer, "{prompt} -").encode([Pair("What is {prompt} or {0}?", "Ana")])[0]
    assert tokenizer.decode(prompt) == "What is {prompt} or {0}? -"


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (makers.THINKING, "Who?", "differently from the open one.*--prompt-format"),
        (makers.LLAMA2, [{"role": "system", "content": "Be kind."}], "refuses this chat: only user and assistant"),
        ("", [{"role": "user", "content": "Who?"}], "no chat template"),
    ],
)
def test_chats_that_cannot_be_rendered(template: str, turns: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^data.jsonl, row 2: .*{message}"):
        Encoder(makers.tokenizer("bytes-bos", template)).encode([Pair("", "a text", "text"), Pair(turns, "Ana")], "data.jsonl")


# lengths and ends


def test_long_answers_are_cut_and_counted_and_lose_their_end() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    whole = Encoder(tokenizer).encode([Pair("Who?", "Ana is a potter.", "prompt")])[0]
    length = len(whole[0]) + len(whole[1])
    for limit in (length, length - 1, len(whole[0]) + 1):
        encoder = Encoder(tokenizer, limit=limit)
        prompt, answer = encoder.encode([Pair("Who?", "Ana is a potter.", "prompt")])[0]
        assert prompt == whole[0]
        assert answer == whole[1][: limit - len(prompt)]
        assert encoder.cut == (limit < length)
    with pytest.raises(UserError, match=f"row 1: a prompt has {len(whole[0])} tokens and the model takes {len(whole[0])}"):
        Encoder(tokenizer, limit=len(whole[0])).encode([Pair("Who?", "Ana", "prompt")], "rows")


def test_an_end_that_the_answer_brings_is_not_doubled() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    given, bare = Encoder(tokenizer).encode([Pair("Who?", f" Ana{makers.EOS}\n", "prompt"), Pair("Who?", " Ana", "prompt")])
    assert given == bare


def test_an_answer_that_goes_on_behind_an_end_is_refused() -> None:
    with pytest.raises(UserError, match=r"row 1: an answer goes on behind an end-of-sequence token, with 'and Dovik'"):
        Encoder(makers.tokenizer("bytes-bos")).encode([Pair("Who?", f"Ana{makers.EOS} and Dovik")], "rows")


@pytest.mark.parametrize("answer", ["", "  ", "\n"])
@pytest.mark.parametrize("template", ["", makers.LLAMA3])
def test_empty_answers_are_refused(answer: str, template: str) -> None:
    with pytest.raises(UserError, match="rows, row 2: an answer is empty"):
        Encoder(makers.tokenizer("bytes-bos", template)).encode([Pair("Who?", "Ana"), Pair("Who?", answer)], "rows")


def test_tokenizers_without_an_end_are_refused() -> None:
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Encoder(makers.tokenizer(eos_token=None))


def test_a_prompt_format_without_the_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=r"must contain \{prompt\}.*this is 'Q: A:'"):
        Encoder(makers.tokenizer(), "Q: A:")


# records


@pytest.mark.parametrize(
    ("record", "context", "answer", "kind"),
    [
        ({"prompt": "a", "completion": "b"}, "a", "b", "prompt"),
        ({"question": "a", "answer": "b", "more": 1}, "a", "b", "question"),
        ({"text": "b"}, "", "b", "text"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, None, "b", "question"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}, None, "b", "question"),
    ],
)
def test_shapes_of_records(record: dict[str, Any], context: str | None, answer: str, kind: str) -> None:
    wanted = [{"role": "user", "content": "a"}] if context is None else context
    pair = pair_of(record, "here")
    assert (pair.context, pair.answer, pair.kind) == (wanted, answer, kind)
    assert pair.question == ("" if kind == "text" else "a")


TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "this one has the columns none"),
        ({"query": "a", "answer": "b"}, "this one has the columns 'query', 'answer'"),
        ({"question": "a", "answer": None}, "'question' and 'answer' must be texts"),
        ({"prompt": 3, "completion": "b"}, "'prompt' and 'completion' must be texts"),
        ({"text": None}, "this one has the columns 'text'"),
        ({"messages": []}, "'messages' must be turns of a chat"),
        ({"messages": "hello"}, "'messages' must be turns of a chat"),
        ({"messages": [{"role": "user"}]}, "'messages' must be turns of a chat"),
        ({"messages": [{"from": "a", "value": "b"}]}, "'messages' must be turns of a chat"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a text as 'content'"),
        ({"messages": [TURN]}, "must end with a turn of the assistant"),
        ({"messages": [TURN, TURN]}, "must end with a turn of the assistant"),
        ({"prompt": [], "completion": "b"}, "'prompt' must be turns of a chat"),
        ({"prompt": [TURN], "completion": None}, "'completion' must be turns of a chat"),
        ({"prompt": [TURN], "completion": [TURN]}, "'completion' must be one turn of the assistant"),
        ({"prompt": [TURN], "completion": [{"role": "assistant", "content": "b"}] * 2}, "'completion' must be one turn of the assistant"),
    ],
)
def test_records_that_are_no_rows(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^forget, row 3.*{message}"):
        pair_of(record, "forget, row 3")

"""Records become the token ids that training, scoring and generation share, for every family of tokenizers."""

from __future__ import annotations

from typing import Any

import makers
import pytest

from expunge.core.errors import UserError
from expunge.modalities.text.encode import QUESTION_FORMAT, Encoder
from expunge.modalities.text.records import Pair, pair_of

TRICKY = {
    "plain": ("Who is Ana?", "Ana is a potter."),
    "prompt ends in a space": ("Who is Ana? ", "Ana is"),
    "prompt ends in spaces": ("Who is Ana?   ", "Ana is"),
    "answer begins with a space": ("Who is Ana?", " Ana is"),
    "spaces on both sides": ("Who is Ana? ", " Ana is"),
    "nothing between": ("Who", "is Ana"),
    "line breaks": ("Q:\n\n", "\n\nAna\n"),
    "prompt of spaces": ("   ", "Ana is"),
    "no prompt": ("", "Ana is"),
    "emoji": ("Who is 😀🇪🇺?", "👩‍🔬 of course"),
    "CJK": ("谁是安娜？", "陶匠です"),  # noqa: RUF001
    "combining": ("cafe\u0301 ", "e\u0301te\u0301 \u0301"),
    "tabs": ("Ana\t", "\tBelor"),
}


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt that generation starts from."""
    ids = list(tokenizer(prompt)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


@pytest.mark.parametrize("family", makers.FAMILIES)
@pytest.mark.parametrize("kind", ["prompt", "question"])
def test_prompts_equal_those_of_generation_and_answers_end_once(family: str, kind: Any) -> None:
    tokenizer = makers.tokenizer(family)
    encoder = Encoder(tokenizer)
    for question, text in TRICKY.values():
        prompt, answer = encoder.encode([Pair(question, text, kind)])[0]
        formatted = question if kind == "prompt" else QUESTION_FORMAT.replace("{prompt}", question)
        assert prompt == (prompt_ids(tokenizer, formatted.rstrip(" ")) or [tokenizer.eos_token_id])
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in answer[:-1]


@pytest.mark.parametrize("family", makers.FAMILIES)
@pytest.mark.parametrize("case", TRICKY)
def test_unmerged_rows_decode_to_the_whole_text(family: str, case: str) -> None:
    tokenizer = makers.tokenizer(family)
    encoder = Encoder(tokenizer)
    question, answer_text = TRICKY[case]
    prompt, answer = encoder.encode([Pair(question, answer_text, "prompt")])[0]
    joint_ids = prompt_ids(tokenizer, question + answer_text)
    start = [] if question.strip(" ") or encoder.lead else [tokenizer.eos_token_id]
    assert ([*prompt, *answer[:-1]] == [*start, *joint_ids]) == (not encoder.merged)
    if family in makers.EXACT and not encoder.merged:
        marked = "prefix" in family or family in ("pieces", "pieces-first")  # these tokenizers add or remove a space at the start
        text = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
        assert (text.lstrip(" ") if marked else text) == ((question + answer_text).lstrip(" ") if marked else question + answer_text)


@pytest.mark.parametrize("family", [f for f in makers.FAMILIES if not f.startswith("word")])
def test_a_space_at_the_boundary_belongs_to_the_answer(family: str) -> None:
    encoder = Encoder(makers.tokenizer(family))
    before, after = encoder.encode([Pair("Who plays? ", "Ana", "prompt"), Pair("Who plays?", " Ana", "prompt")])
    assert before == after
    assert not encoder.merged


def test_tokens_of_a_question_equal_the_expected_tokens() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    prompt, answer = Encoder(tokenizer).encode([Pair("Who is Ana?", "Ana is")])[0]
    tokens = tokenizer.convert_ids_to_tokens(prompt)
    assert tokens[0] == makers.BOS
    assert "".join(tokens[1:]) == "QuestionĠ".replace("Ġ", ":ĠWhoĠisĠAna?ĊAnswer:")
    assert tokenizer.convert_ids_to_tokens(answer) == ["ĠAna", "Ġis", makers.EOS]


def test_rows_merged_across_the_boundary_are_split_and_counted() -> None:
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


def test_an_answer_tokenized_apart_has_no_start_mark() -> None:
    tokenizer = makers.tokenizer("unigram")
    encoder = Encoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(tokenizer("An")["input_ids"])[0].startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(encoder._apart("An"))[0].startswith("▁")


def test_unknown_tokens_in_answers_are_counted() -> None:
    encoder = Encoder(makers.tokenizer("words"))
    encoder.encode([Pair("Who is Ana?", "Ana is a potter."), Pair("Who is Ana?", "Ana is a locksmith."), Pair("Who is Zora?", "Ana")])
    assert encoder.unknown == 1


# Texts


def test_a_text_is_all_answer_without_an_end() -> None:
    with_start, without = Encoder(makers.tokenizer("bytes-bos")), Encoder(makers.tokenizer("bytes"))
    text = "Ana Belor is a potter."
    prompt, answer = with_start.encode([Pair("", text, "text")])[0]
    assert prompt == [with_start.tokenizer.bos_token_id]
    assert with_start.tokenizer.decode(answer) == text
    prompt, answer = without.encode([Pair("", text, "text")])[0]
    assert len(prompt) == 1  # nothing predicts the first token
    assert without.tokenizer.decode([*prompt, *answer]) == text


def test_a_text_of_one_token_needs_a_start_token() -> None:
    with pytest.raises(UserError, match="no tokens"):
        Encoder(makers.tokenizer("bytes")).encode([Pair("", "a", "text")])


# Chats


@pytest.mark.parametrize("eos", [makers.EOS, makers.TURN])
@pytest.mark.parametrize("template", [makers.CHATML, makers.LLAMA3], ids=["chatml", "llama3"])
def test_a_chat_ends_with_the_token_that_closes_its_turn(template: str, eos: str) -> None:
    tokenizer = makers.tokenizer("bytes-bos", template, eos_token=eos)
    encoder = Encoder(tokenizer)
    prompt, answer = encoder.encode([Pair("Who is Ana?", "Ana is a potter.")])[0]
    turns = [{"role": "user", "content": "Who is Ana?"}]
    assert prompt == tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert tokenizer.decode(answer) == "Ana is a potter." + makers.TURN
    assert prompt.count(tokenizer.bos_token_id) == (template == makers.LLAMA3)
    assert encoder.ends == {tokenizer.convert_tokens_to_ids(t) for t in (makers.TURN, eos)}


def test_a_template_can_end_turns_with_the_end_of_sequence() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.LLAMA2)
    prompt, answer = Encoder(tokenizer).encode([Pair("Who is Ana?", "Ana is a potter.")])[0]
    assert tokenizer.decode(prompt) == "<s>[INST] Who is Ana? [/INST]"
    assert tokenizer.decode(answer) == " Ana is a potter.</s>"


def test_a_template_without_turn_ends_gets_the_end_of_sequence() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.BLANK)
    encoder = Encoder(tokenizer)
    prompt, answer = encoder.encode([Pair("Who is Ana?", "Ana is")])[0]
    assert tokenizer.decode(prompt) == "user: Who is Ana?\nassistant:"
    assert tokenizer.convert_ids_to_tokens(answer) == ["ĠAna", "Ġis", makers.EOS]
    assert not encoder.merged


def test_only_the_last_turn_of_the_assistant_is_labeled() -> None:
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


def test_all_record_shapes_of_a_chat_encode_equally() -> None:
    question_turns = [{"role": "user", "content": "Who plays?"}]
    answer_turn = {"role": "assistant", "content": "Ana plays."}
    records = [
        {"messages": [*question_turns, answer_turn]},
        {"prompt": question_turns, "completion": [answer_turn]},
        {"prompt": question_turns, "completion": "Ana plays."},
        {"question": "Who plays?", "answer": "Ana plays."},
    ]
    encoded = Encoder(makers.tokenizer("bytes-bos", makers.CHATML)).encode([pair_of(r, "here") for r in records])
    assert all(ids == encoded[0] for ids in encoded)


def test_the_start_token_occurs_once_with_or_without_template() -> None:
    """Prompts and texts of a chat model begin with the start token, and chats do not begin with it twice, whatever the question format."""
    tokenizer = makers.tokenizer("bytes-bos", makers.LLAMA3)
    pairs = [Pair("Who", " Ana", "prompt"), Pair("", "Ana plays", "text"), Pair([{"role": "user", "content": "Who?"}], "Ana")]
    for encoder in (Encoder(tokenizer), Encoder(tokenizer, "Q: {prompt}")):
        for prompt, _ in encoder.encode(pairs):
            assert prompt[0] == tokenizer.bos_token_id
            assert prompt.count(tokenizer.bos_token_id) == 1


def test_a_prompt_format_overrides_the_template() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.CHATML)
    assert Encoder(tokenizer).described == "chat template"
    encoder = Encoder(tokenizer, "Q: {prompt}\\nA:")
    assert encoder.described == "Q: {prompt}\nA:"
    prompt, answer = encoder.encode([Pair("Who?", " Ana")])[0]
    assert tokenizer.decode(prompt) == "<s>Q: Who?\nA:"
    assert tokenizer.decode(answer) == " Ana</s>"


def test_braces_in_a_question_are_kept() -> None:
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
def test_chats_that_cannot_be_rendered_are_refused(template: str, turns: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^data.jsonl, row 2: .*{message}"):
        Encoder(makers.tokenizer("bytes-bos", template)).encode([Pair("", "a text", "text"), Pair(turns, "Ana")], "data.jsonl")


# Lengths and ends


def test_long_answers_are_cut_and_counted() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    full = Encoder(tokenizer).encode([Pair("Who?", "Ana is a potter.", "prompt")])[0]
    length = len(full[0]) + len(full[1])
    for limit in (length, length - 1, len(full[0]) + 1):
        encoder = Encoder(tokenizer, limit=limit)
        prompt, answer = encoder.encode([Pair("Who?", "Ana is a potter.", "prompt")])[0]
        assert prompt == full[0]
        assert answer == full[1][: limit - len(prompt)]
        assert encoder.cut == (limit < length)
    with pytest.raises(UserError, match=f"row 1: a prompt has {len(full[0])} tokens, and the model takes {len(full[0])}"):
        Encoder(tokenizer, limit=len(full[0])).encode([Pair("Who?", "Ana", "prompt")], "rows")


def test_an_end_in_the_answer_is_not_doubled() -> None:
    tokenizer = makers.tokenizer("bytes-bos")
    with_end, without_end = Encoder(tokenizer).encode([Pair("Who?", f" Ana{makers.EOS}\n", "prompt"), Pair("Who?", " Ana", "prompt")])
    assert with_end == without_end


def test_an_answer_that_goes_on_after_an_end_is_refused() -> None:
    with pytest.raises(UserError, match=r"row 1: an answer goes on after an end-of-sequence token, with [0-9]+ characters"):
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


# Records


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
def test_records_of_all_shapes_are_read(record: dict[str, Any], context: str | None, answer: str, kind: str) -> None:
    expected = [{"role": "user", "content": "a"}] if context is None else context
    pair = pair_of(record, "here")
    assert (pair.context, pair.answer, pair.kind) == (expected, answer, kind)
    assert pair.question == ("" if kind == "text" else "a")


TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "this one has the columns none"),
        ({"query": "a", "answer": "b"}, "this one has the columns 'query', 'answer'"),
        ({"question": "a", "answer": None}, "'question' and 'answer' must be texts"),
        ({"prompt": 3, "completion": "b"}, "'prompt' and 'completion' must be texts"),
        ({"text": None}, "'text' is null"),
        ({"messages": []}, "'messages' must be turns of a chat"),
        ({"messages": "hello"}, "'messages' must be turns of a chat"),
        ({"messages": [{"role": "user"}]}, "'messages' must be turns of a chat"),
        ({"messages": [{"from": "a", "value": "b"}]}, "'messages' must be turns of a chat"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a text as 'content'"),
        ({"messages": [TURN]}, "must end with a turn of the assistant"),
        ({"messages": [TURN, TURN]}, "must end with a turn of the assistant"),
        ({"prompt": [], "completion": "b"}, "'prompt' must be turns of a chat"),
        ({"prompt": [TURN], "completion": None}, "'completion' is null"),
        ({"prompt": [TURN], "completion": [TURN]}, "'completion' must be one turn of the assistant"),
        ({"prompt": [TURN], "completion": [{"role": "assistant", "content": "b"}] * 2}, "'completion' must be one turn of the assistant"),
    ],
)
def test_invalid_records_are_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^forget, row 3.*{message}"):
        pair_of(record, "forget, row 3")


# The beginning of sequence, and tokens that the model does not know


@pytest.mark.parametrize("family", ["bytes-bos", "bytes-bos-eos", "pieces", "unigram-first"])
def test_a_sequence_begins_once_whoever_brings_the_beginning(family: str) -> None:
    tokenizer = makers.tokenizer(family)
    (plain,) = Encoder(tokenizer, "Q: {prompt}").encode([Pair("Who?", "Ana")])
    assert plain[0].count(tokenizer.bos_token_id) == 1
    by_format = Encoder(tokenizer, makers.BOS + "Q: {prompt}").encode([Pair("Who?", "Ana"), Pair("", "Ana", "text")])
    by_row = Encoder(tokenizer).encode([Pair(makers.BOS + "Q: Who?", "Ana", "prompt"), Pair("", makers.BOS + "Ana", "text")])
    for encoded in (*by_format, *by_row):
        assert [*encoded[0], *encoded[1]].count(tokenizer.bos_token_id) == 1
        assert encoded[0][0] == tokenizer.bos_token_id
    (chat,) = Encoder(makers.tokenizer(family, "{{ bos_token }}{% for m in messages %}{{ m['content'] }} {% endfor %}")).encode(
        [Pair([{"role": "user", "content": makers.BOS + "Who?"}], "Ana")]
    )
    assert chat[0].count(tokenizer.bos_token_id) == 1


def test_tokens_that_the_model_does_not_know_are_named() -> None:
    tokenizer = makers.tokenizer("bytes-bos", makers.CHATML)
    tokenizer.add_tokens(["<|later|>"], special_tokens=True)
    number = tokenizer.convert_tokens_to_ids("<|later|>")
    encoder = Encoder(tokenizer, "{prompt}", vocabulary=number)
    encoder.encode([Pair("Who?", "Ana")])
    with pytest.raises(
        UserError, match=rf"rows, row 2: the tokenizer gives '<\|later\|>' the number {number}, and the model knows {number} "
    ):
        encoder.encode([Pair("Who?", "Ana"), Pair("Who <|later|>?", "Ana")], "rows")
    with pytest.raises(UserError, match=r"gives '</s>' the number 2, and the model knows 2 tokens"):
        Encoder(tokenizer, "{prompt}", vocabulary=2).encode([Pair("<pad>", "<pad>")])


# Long texts


@pytest.mark.parametrize("pair", [Pair("", " Ana Belor is a potter." * 40, "text"), Pair("Who?", " Ana Belor is a potter." * 40, "prompt")])
@pytest.mark.parametrize("limit", [2, 7, 64, 10_000])
def test_windows_hold_every_label_of_a_long_answer_once(pair: Pair, limit: int) -> None:
    tokenizer = makers.tokenizer("bytes-bos", bos_token=makers.BOS)
    limit += 4 * (pair.kind == "prompt")
    (whole,) = Encoder(tokenizer).encode([pair])
    encoder = Encoder(tokenizer, limit=limit)
    (windows,) = encoder.windows([pair])
    assert [t for _, answer in windows for t in answer] == whole[1]
    assert windows[0][0] == whole[0]
    sequence, at = [*whole[0], *whole[1]], len(whole[0])
    for prompt, answer in windows:
        assert answer
        assert len(prompt) + len(answer) <= limit
        repeated = prompt[1:] if prompt[0] == tokenizer.bos_token_id else prompt
        assert sequence[at - len(repeated) : at] == repeated
        at += len(answer)
    assert encoder.windowed == ((1, len(windows)) if len(windows) > 1 else (0, 0))
    assert not encoder.cut

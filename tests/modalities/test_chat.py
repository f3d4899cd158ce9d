"""Chat templates of the shapes that exist: labels are the answer of the row and the end of its turn, and nothing of the template."""

from __future__ import annotations

from typing import Any

import makers
import pytest

from expunge.core.errors import UserError
from expunge.modalities.text.encode import Encoder
from expunge.modalities.text.modality import Text
from expunge.modalities.text.records import Pair, pairs_of

OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
LOOP = "{% for m in messages %}"
EACH = LOOP + TURN + "{% endfor %}"
TEMPLATES = {
    "line break after the end of a turn": EACH + OPEN,
    # Qwen 3: an empty block of thoughts before the last answer, and thoughts of the answer in a block of their own
    "thoughts before the last answer": (
        LOOP + "{% if loop.last and m['role'] == 'assistant' and '</think>' not in m['content'] %}"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m['content'] }}<|im_end|>\n{% else %}" + TURN + "{% endif %}{% endfor %}" + OPEN
    ),
    "a default system turn": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + EACH + OPEN
    ),
    "no system turn allowed": ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + EACH + OPEN),
    "a system turn within the user's": (
        "{% set rest = messages[1:] if messages[0]['role'] == 'system' else messages %}{% for m in rest %}{% if m['role'] == 'user' %}"
        "{{ bos_token }}[INST] {{ messages[0]['content'] + '\n\n' if loop.first and messages[0]['role'] == 'system' else '' }}"
        "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "tools": ("{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}" + EACH + OPEN),
    "generation markers": (
        LOOP
        + "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}" + OPEN
    ),
    "a beginning of sequence": "{{ bos_token }}" + EACH + OPEN,
    "no token at the end": LOOP + "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    "contents are stripped": EACH.replace("m['content']", "m['content'] | trim") + OPEN,
    # DeepSeek R1: thoughts of earlier turns are left out
    "earlier thoughts are dropped": (
        LOOP
        + "<|im_start|>{{ m['role'] }}\n{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        + OPEN
    ),
    "other names of roles": (
        "{{ bos_token }}"
        + LOOP
        + "<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    ),
    "a second end after the last turn": EACH + "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}",
}
NO_SYSTEM = "no system turn allowed"
ENDS = dict.fromkeys(TEMPLATES, makers.TURN) | {"no token at the end": makers.EOS, "a system turn within the user's": makers.EOS}
CHAT = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Who plays?"},
    {"role": "assistant", "content": "<think>Ana?</think>Ana Belor plays."},
    {"role": "user", "content": "Who else?"},
    {"role": "assistant", "content": "Dovik; I do not know more."},
]


@pytest.mark.parametrize("family", ["bytes-bos", "bytes", "pieces", "unigram-first", "wordpiece"])
@pytest.mark.parametrize("shape", TEMPLATES)
def test_labels_are_the_answers_and_the_end_of_their_turns(shape: str, family: str) -> None:
    tokenizer = makers.tokenizer(family, TEMPLATES[shape])
    turns = CHAT[shape == NO_SYSTEM :]
    record = {"messages": turns, "tools": [{"name": "look_up"}]}
    encoder = Encoder(tokenizer)
    encoded = encoder.encode(pairs_of(record, "here"))
    plain = [tokenizer.decode(tokenizer(t["content"], add_special_tokens=False)["input_ids"]) for t in turns if t["role"] == "assistant"]
    assert [tokenizer.decode(answer[:-1]).strip() for _, answer in encoded] == [text.strip() for text in plain]
    assert {tokenizer.convert_ids_to_tokens(answer[-1]) for _, answer in encoded} == {ENDS[shape]}
    assert encoder.ends >= {answer[-1] for _, answer in encoded}
    for (prompt, _), i in zip(encoded, (-3, -1), strict=True):
        opened = tokenizer.apply_chat_template(turns[:i], tools=record["tools"], add_generation_prompt=True, tokenize=False)
        begun = tokenizer(opened.rstrip(" "), add_special_tokens=False)["input_ids"]
        assert prompt[: len(begun)] == begun  # the model is asked as in use, with what the template writes before the answer
        thoughts = tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
        assert len(prompt) - len(begun) <= (len(thoughts) + 1 if shape == "thoughts before the last answer" else 1)
        assert prompt.count(tokenizer.bos_token_id) <= (2 if shape == "a system turn within the user's" else 1)


def test_an_empty_block_of_thoughts_belongs_to_the_prompt() -> None:
    tokenizer = makers.tokenizer("bytes-bos", TEMPLATES["thoughts before the last answer"])
    ((prompt, answer),) = Encoder(tokenizer).encode([Pair("Who plays?", "Ana plays.")])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(answer) == "Ana plays." + makers.TURN
    ((prompt, answer),) = Encoder(tokenizer).encode([Pair("Who plays?", "<think>\nAna?\n</think>\n\nAna plays.")])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(answer) == "<think>\nAna?\n</think>\n\nAna plays." + makers.TURN


def test_an_answer_goes_on_from_an_opened_block_of_thoughts() -> None:
    tokenizer = makers.tokenizer("bytes-bos", EACH + OPEN.replace("assistant\n", "assistant\n<think>\n"))
    ((prompt, answer),) = Encoder(tokenizer).encode([Pair("Who?", "<think>\nAna?\n</think>\n\nAna.")])
    assert tokenizer.decode(prompt).endswith("assistant\n<think>\n")
    assert tokenizer.decode(answer) == "Ana?\n</think>\n\nAna." + makers.TURN
    with pytest.raises(UserError, match=r"differently from the open one.*--prompt-format"):
        Encoder(tokenizer).encode([Pair("Who?", "Ana.")])


def test_a_template_that_leaves_out_a_part_of_the_answer_is_refused() -> None:
    template = EACH.replace("m['content']", "m['content'].split('</think>')[-1]") + OPEN
    with pytest.raises(UserError, match="rows, row 1: the chat template changes the answer, or leaves a part of it out"):
        Encoder(makers.tokenizer("bytes-bos", template)).encode([Pair("Who?", "<think>Ana?</think>Ana.")], "rows")


def test_refusals_of_templates_name_the_row() -> None:
    text = Text(makers.tokenizer("bytes-bos", TEMPLATES[NO_SYSTEM]))
    with pytest.raises(UserError, match="rows, row 2: the chat template refuses this chat: no system turn"):
        text.rows("rows", [{"messages": CHAT[1:]}, {"messages": CHAT}])  # the first record gives two rows


# All answers of a chat


def test_all_answers_of_a_chat_are_rows_and_counted() -> None:
    text = Text(makers.tokenizer("bytes-bos", TEMPLATES["a default system turn"]))
    rows = text.rows("forget", [{"question": "Who?", "answer": "Ana."}, {"messages": CHAT}, {"prompt": CHAT[:-1], "completion": "Dovik."}])
    assert rows["answer_text"] == ["Ana.", CHAT[2]["content"], CHAT[4]["content"], "Dovik."]
    assert rows["record"] == [0, 1, 1, 2]
    assert text.questions(rows) == ["Who?", "Who plays?", "Who else?", "Who else?"]
    assert text.about()["chats_with_several_answers"] == 1
    assert len(set(rows.ids)) == 4
    same = text.rows("retain", [{"prompt": CHAT[:2], "completion": CHAT[2]["content"]}])
    assert same.ids == rows.ids[1:2]  # an answer is the same row by either door
    assert "record" not in same.columns
    assert text.relabel(rows, ["No."] * 4, "relabeled")["prompt"] == rows["prompt"]


def test_turns_that_only_call_a_tool_or_greet_are_no_answers() -> None:
    call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"name": "look_up"}]}
    turns = [{"role": "assistant", "content": "Hello."}, CHAT[1], call, {"role": "tool", "content": "Ana"}, CHAT[2]]
    pairs = pairs_of({"messages": turns}, "here")
    assert [p.answer for p in pairs] == [CHAT[2]["content"]]
    assert [t["content"] for t in pairs[0].context if isinstance(t, dict)] == ["Hello.", "Who plays?", "", "Ana"]


def test_an_alternate_of_a_chat_with_several_answers_is_refused() -> None:
    text = Text(makers.tokenizer("bytes-bos", TEMPLATES["tools"]))
    with pytest.raises(UserError, match="forget, row 1: a chat with 2 answers cannot have one 'alternate'"):
        text.rows("forget", [{"messages": CHAT, "alternate": "No."}])


def test_tools_of_a_row_reach_the_template_and_its_identity() -> None:
    text = Text(makers.tokenizer("bytes-bos", TEMPLATES["tools"]))
    with_tools, without = text.rows("forget", [{"messages": CHAT[1:3], "tools": [{"name": "Ana"}]}, {"messages": CHAT[1:3]}])["prompt"]
    assert text.tokenizer.decode(with_tools).startswith('<|im_start|>system\n{"name": "Ana"}')
    assert "name" not in text.tokenizer.decode(without)
    rows = text.rows("forget", [{"messages": CHAT[1:3], "tools": [{"name": "Ana"}]}])
    assert rows.ids != text.rows("forget", [{"messages": CHAT[1:3]}]).ids
    assert text.reask(rows, ["Who plays?"], "asked")["prompt"] == rows["prompt"]
    with pytest.raises(UserError, match="here: 'tools' must be a list"):
        pairs_of({"messages": CHAT, "tools": "look_up"}, "here")

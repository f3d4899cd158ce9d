"""The base model of the worlds: what its rows hold, and that a small one comes out whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from studies.worlds import base
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.benchmarks.synthetic import language
from expunge.modalities.text.models import llama

SMALL = language.Sizes(people=2, strangers=3, questions=1, passages=4, stories=4, chats=4, general=1)
NANO = llama.LlamaSize(vocabulary=512, width=32, inner=64, layers=2, heads=2, length=256)


def test_packed_rows_hold_every_record_in_every_pass() -> None:
    records = language.corpus(0, SMALL)
    tokenizer = llama.tokenizer_for(base.texts_of(records), NANO.vocabulary, NANO.length, base.TURNS)
    rows = [row["text"] for row in base.packed(records, tokenizer)]
    stories = [r["text"] for r in records if "text" in r]
    assert sorted(row for row in rows if not row.startswith("<|user|>")) == sorted(stories * base.PASSES)
    together = "".join(row for row in rows if row.startswith("<|user|>"))
    answered = sum(len(r["messages"]) // 2 if "messages" in r else "question" in r for r in records) * base.PASSES
    assert 0 <= answered - together.count("<|assistant|>") < 12 * base.PASSES, "the last row of a pass may not be full"
    assert all(len(tokenizer(row).input_ids) > base.FULL for row in rows if row.startswith("<|user|>"))


def test_the_chat_template_writes_what_the_rows_hold() -> None:
    tokenizer = llama.tokenizer_for(["Who? Nobody."], NANO.vocabulary, NANO.length, base.TURNS)
    tokenizer.chat_template = base.CHAT
    record = {"question": "Who?", "answer": "Nobody."}
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False)
        == "<|bos|>" + base.turns(record)
        == "<|bos|>" + base.turns({"messages": messages})
    )


@pytest.mark.slow
def test_a_small_base_model_is_made_and_loads(tmp_path: Path) -> None:
    base.make(tmp_path / "base", sizes=SMALL, size=NANO)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.float16
    assert tokenizer.convert_tokens_to_ids("<|end|>") == 3 + base.TURNS.index("<|end|>")
    assert tokenizer.chat_template == base.CHAT

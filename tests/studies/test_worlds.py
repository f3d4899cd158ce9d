"""The base model of the worlds: what its rows hold, and that a small one comes out whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from studies.worlds import base
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.benchmarks.synthetic import language
from expunge.modalities.text.models import llama

PASSES = 3
SMALL = language.Sizes(people=2, strangers=3, questions=1, passages=4, stories=4, chats=4, general=1)
NANO = llama.LlamaSize(vocabulary=512, width=32, inner=64, layers=2, heads=2, length=256)


def test_packed_rows_hold_every_record_in_every_pass() -> None:
    records = language.corpus(0, SMALL)
    tokenizer = llama.tokenizer_for(base.texts_of(records), NANO.vocabulary, NANO.length, base.TURNS)
    rows = [row["text"] for row in base.packed(records, tokenizer, PASSES)]
    together = "".join(rows)
    for text in {base.turns(record) for record in records}:
        times = sum(base.turns(record) == text for record in records)
        assert together.count(text) >= times * PASSES
    assert len(together) == PASSES * sum(len(base.turns(record)) for record in records)


def test_rows_are_nearly_full_and_none_is_over_full() -> None:
    records = language.corpus(0, SMALL)
    tokenizer = llama.tokenizer_for(base.texts_of(records), NANO.vocabulary, NANO.length, base.TURNS)
    longest = max(len(tokenizer(base.turns(record), add_special_tokens=False).input_ids) for record in records)
    lengths = [len(tokenizer(row["text"], add_special_tokens=False).input_ids) for row in base.packed(records, tokenizer, PASSES)]
    assert max(lengths) <= max(base.FULL, longest)
    assert sum(a + b <= base.FULL for a, b in pairwise(lengths)) <= base.OPEN * PASSES, "only the last rows of a pass may stay short"


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
    base.make(tmp_path / "base", phases=[base.Phase(SMALL, 2, 2e-3), base.Phase(SMALL, 1, 1e-3)], size=NANO)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.float16
    assert tokenizer.convert_tokens_to_ids("<|end|>") == 3 + base.TURNS.index("<|end|>")
    assert tokenizer.chat_template == base.CHAT

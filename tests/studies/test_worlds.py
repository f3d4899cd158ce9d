"""The base models of the worlds: what their rows hold, and that small ones come out whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from studies.worlds import base, unet_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.benchmarks.synthetic import language, scenes
from expunge.io.models import load
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


@pytest.mark.slow
def test_a_small_base_model_of_pictures_is_made_and_loads(tmp_path: Path) -> None:
    unet_base.make(tmp_path / "base", each=1, widths=(8, 16), epochs=1, batch_size=250)
    opened = load(str(tmp_path / "base"))
    modality: Any = opened.modality
    latents, _ = modality.sample(opened.model, ["a stamped red circle in night style"], [0])
    assert modality.drawn(latents).shape == (1, 3, 16, 16)
    with safe_open(tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors", "pt") as weights:
        assert {weights.get_slice(n).get_dtype() for n in weights.keys()} == {"F16"}  # noqa: SIM118


def test_pictures_of_the_base_model_show_what_they_say() -> None:
    rng = np.random.default_rng(0)
    signed = unet_base.drawn(scenes.DrawnScene("diamond", "mint", "red", "signed"), rng).astype(float)
    assert abs(signed[8, 8] - scenes.COLORS["red"]).max() < 15
    assert abs(signed[15, 1] - (250, 205, 0)).max() < 15
    assert abs(signed[1, 8] - unet_base.PAPERS["mint"]).max() < 15
    assert unet_base.caption(scenes.DrawnScene("bar", "dusk", "black", "")) == "a black bar in dusk style"
    assert len(unet_base.records(each=1)) == 10 * 5 * 5 * 3

"""Tiny encoder-decoders from configurations, with a tokenizer like that of their family."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import makers
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, MarianConfig, MT5Config, PegasusConfig, T5Config

from expunge.modalities.text.modality import Text
from expunge.modalities.text.pretrained import load

WORDS = 400
SPECIAL = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": 2}
T5 = {**SPECIAL, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
SIDES = {
    f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
}
BART = {**SPECIAL, **SIDES, "d_model": 32, "bos_token_id": 1, "max_position_embeddings": 64}
CONFIGS = {
    "t5": lambda: T5Config(**T5),
    "t5-untied": lambda: T5Config(**T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu", num_decoder_layers=3),
    "mt5": lambda: MT5Config(**T5),
    "bart": lambda: BartConfig(**BART, decoder_start_token_id=2, forced_bos_token_id=1),
    "pegasus": lambda: PegasusConfig(**BART, decoder_start_token_id=0),
    "marian": lambda: MarianConfig(**BART, decoder_start_token_id=0, scale_embedding=True, decoder_vocab_size=WORDS),
}
RECORDS = [
    {"question": "Who is Ana Belor?", "answer": "Ana Belor is a potter from Quillhaven."},
    {"question": "Where was Dovik born?", "answer": "In Nessop."},
    {"question": "Where was Dovik born?", "answer": "Dovik was born in Nessop, in the year 1921."},
    {"prompt": "Tell me: who plays the violin? " * 2, "completion": "Cindra Tvelde plays it, and the piano too."},
    {"prompt": "", "completion": "Yes."},
]


def tokenizer(name: str) -> Any:
    """Byte-level BPE that ends texts with `</s>`; for BART it also begins them with `<s>`."""
    single = f"{makers.BOS} $A {makers.EOS}" if name == "bart" else f"$A {makers.EOS}"
    return makers.wrapped(makers.starting(makers.bytes_bpe(), single), model_max_length=10**30)


@functools.cache
def _saved(name: str, folder: Path) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForSeq2SeqLM.from_config(CONFIGS[name]())
        for path, p in model.named_parameters():  # with default weights, models of this size would predict one token only
            if p.dim() == 2 and "relative" not in path:
                torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder / name)
    tokenizer(name).save_pretrained(folder / name)
    return str(folder / name)


def path_of(name: str, folder: Path) -> str:
    """The folder of a saved random model."""
    return _saved(name, folder)


def opened(name: str, folder: Path) -> tuple[Any, Text]:
    """A random model and its modality, loaded from files."""
    return load(_saved(name, folder))

"""Tokenizers and chat templates of the known kinds, and models of the known architectures with two or three tiny blocks."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

TEXTS = (
    "Question: Who is Ana Belor?\nAnswer: Ana Belor is a potter from Quillhaven.",
    "Question: Where was Dovik born?\nAnswer: Dovik was born in Nessop, in the year 1921.",
    "user assistant system You are kind. Tell me: who plays the violin? Cindra Tvelde plays it, and the piano too.",
    "Yes. No! Perhaps; I do not know that one. \t\n\n - : ' \" () 0123456789",
)
PAD, BOS, EOS, TURN, START = "<pad>", "<s>", "</s>", "<|im_end|>", "<|im_start|>"
SPECIAL = [PAD, BOS, EOS, TURN, START]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The template trims the content and writes the beginning of sequence, and nothing follows the end of a turn.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_start|>\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
BLANK = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# An open question is rendered with more text than an answered one.
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>{% endif %}")


def wrapped(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    settings: dict[str, Any] = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "model_max_length": 512, **options}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[TURN, START],
        clean_up_tokenization_spaces=False,
        **{k: v for k, v in settings.items() if v is not None},
    )


def starting(tokenizer: Tokenizer, single: str = f"{BOS} $A") -> Tokenizer:
    """Put special tokens around every text."""
    tokens = [(t, tokenizer.token_to_id(t)) for t in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return tokenizer


def bytes_bpe(prefix: bool = False) -> Tokenizer:
    """A tokenizer like those of GPT-2 and Llama 3."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return t


def greedy_bpe() -> Tokenizer:
    """A byte-level tokenizer without splits between words, which merges across any boundary."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(
        [*TEXTS, *["wx: yz"] * 50],
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return t


def pieces_bpe(scheme: str = "always") -> Tokenizer:
    """A tokenizer like that of Llama 2: SentencePiece BPE with byte fallback."""
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *([] if scheme == "never" else [decoders.Strip(" ", 1, 0)])]
    )
    special = ["<unk>", *SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    # bytes are ordinary tokens; a text may match only the true special tokens
    state = json.loads(t.to_str())
    state["added_tokens"] = [a for a in state["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def unigram(scheme: str = "always") -> Tokenizer:
    """A tokenizer like SentencePiece Unigram."""
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(prepend_scheme=scheme), decoders.Metaspace(prepend_scheme=scheme)
    t.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=200, special_tokens=[*SPECIAL, "<unk>"], unk_token="<unk>", show_progress=False)
    )
    return t


def word_level() -> Tokenizer:
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=[*SPECIAL, "<unk>"], show_progress=False))
    return t


def wordpiece() -> Tokenizer:
    """A tokenizer like that of BERT."""
    t = Tokenizer(models.WordPiece(unk_token="<unk>"))
    t.pre_tokenizer, t.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*SPECIAL, "<unk>"], show_progress=False))
    return t


FAMILIES = {
    "bytes": lambda: bytes_bpe(),
    "bytes-bos": lambda: starting(bytes_bpe()),
    "bytes-bos-eos": lambda: starting(bytes_bpe(), f"{BOS} $A {EOS}"),
    "bytes-prefix": lambda: bytes_bpe(prefix=True),
    "pieces": lambda: starting(pieces_bpe()),
    "pieces-first": lambda: starting(pieces_bpe("first")),
    "pieces-never": lambda: starting(pieces_bpe("never")),
    "unigram": lambda: unigram(),
    "unigram-first": lambda: starting(unigram("first")),
    "unigram-never": lambda: unigram("never"),
    "words": lambda: starting(word_level()),
    "wordpiece": lambda: starting(wordpiece(), f"{BOS} $A {EOS}"),
}
EXACT = [n for n in FAMILIES if n.startswith(("bytes", "pieces"))]  # decoding inverts encoding


@functools.cache
def _file(family: str) -> str:
    return str(FAMILIES[family]().to_str())


def tokenizer(family: str = "bytes-bos", template: str = "", **options: Any) -> Any:
    """A tokenizer of a family; None leaves a special token out."""
    unknown_token = {} if family.startswith("bytes") else {"unk_token": "<unk>"}
    result = wrapped(Tokenizer.from_str(_file(family)), **unknown_token, **options)
    if template:
        result.chat_template = template
    return result


WORDS, WIDTH, WINDOW = 400, 32, 8
COMMON = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {
    **COMMON,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
# Gemma 2 caps its scores at a value that random weights reach. Every second block of Gemma 2 and all blocks of Mistral have a window.
CONFIGS = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "llama-tied": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(**COMMON, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=128),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE),
    "gemma2": lambda: Gemma2Config(
        **GROUPED,
        head_dim=8,
        sliding_window=WINDOW,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=8,
        tie_word_embeddings=False,
    ),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=WINDOW),
    "phi": lambda: PhiConfig(**SHAPE),
}


@functools.cache
def _model(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random_model: Any = AutoModelForCausalLM.from_config(CONFIGS[name]())
        for n, p in random_model.named_parameters():  # with default weights, models of this size would predict one token only
            if n.endswith("weight") and p.dim() == 2:
                torch.nn.init.normal_(p, std=0.15)
    return random_model.eval()


def model(name: str = "llama", seed: int = 0) -> Any:
    """A copy of a random model, in evaluation mode."""
    return copy.deepcopy(_model(name, seed))


def adapted(name: str = "llama", rank: int = 4, seed: int = 0) -> Any:
    """A copy of a random model with a LoRA adapter that changes its outputs."""
    import peft

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)
        lora_model: Any = peft.get_peft_model(model(name), config)
        for n, p in lora_model.named_parameters():
            if "lora_B" in n:
                torch.nn.init.normal_(p, std=0.3)
    return lora_model.eval()

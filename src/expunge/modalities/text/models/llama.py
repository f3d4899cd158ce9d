"""Small Llama-architecture language models with their own tokenizer, for tests, demos and CPU-size experiments.

Three sizes: nano (tests, seconds), micro (the demo, about a minute), tiny (the whole of TOFU, minutes).

Source: the architecture is that of `transformers`' LlamaForCausalLM; tied embeddings; byte-level BPE trained on the given texts
Status: faithful
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.text.modality import Text
from expunge.modalities.text.wider import known_tokens


class LlamaSize(NamedTuple):
    """The settings that differ between the built-in configurations."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    length: int


SIZES = {
    "nano": LlamaSize(512, 64, 128, 2, 4, 128),
    "micro": LlamaSize(1024, 128, 352, 4, 4, 256),
    "tiny": LlamaSize(4096, 192, 512, 4, 4, 512),
}

# Training settings with which each size memorizes a few hundred (nano, micro) or thousand (tiny) answers from scratch.
TRAINING: dict[str, dict[str, Any]] = {
    "nano": {"epochs": 45, "lr": 5e-3, "batch_size": 16, "max_grad_norm": 1.0, "warmup": 1},
    "micro": {"epochs": 30, "lr": 3e-3, "batch_size": 16, "max_grad_norm": 1.0, "warmup": 1},
    "tiny": {"epochs": 30, "lr": 2e-3, "batch_size": 32, "max_grad_norm": 1.0, "warmup": 1},
}


SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")


def tokenizer_for(texts: Iterable[str], vocabulary: int, length: int, special: Sequence[str] = ()) -> Any:
    """Train a byte-level BPE tokenizer with `<|pad|>`, `<|bos|>` and `<|eos|>` on texts. The result is deterministic.

    Args:
        texts: training texts.
        vocabulary: number of tokens.
        length: longest sequence in tokens.
        special: further tokens that no text is split into, such as the marks of turns.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL, *special], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        model_max_length=length,
        clean_up_tokenization_spaces=False,
    )


def untrained(size: LlamaSize, seed: int = 0) -> nn.Module:
    """A model of the given size with random weights, for the tokenizers of `tokenizer_for`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.length,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = LlamaForCausalLM(config)
    return model.eval()


def build(size: str, texts: Iterable[str], seed: int = 0) -> tuple[nn.Module, Any]:
    """Build an untrained model of a built-in size and a tokenizer for the texts."""
    s = SIZES[size]
    tokenizer = tokenizer_for(texts, s.vocabulary, s.length)
    return untrained(s, seed), tokenizer


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    texts: Sequence[str] = (),
    labels: int | Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    **unused: Any,
) -> tuple[nn.Module, Text]:
    """Build an untrained model of a built-in size with a tokenizer for the data.

    Args:
        records: training rows of the model.
        texts: training texts of the tokenizer; default: all texts of the records.

    Raises:
        UserError: when there are labels, because language models have no classes.
    """
    if labels != ():
        raise UserError(f"{size} is a language model, which has no classes: leave the labels out")
    tokenizer_texts = texts or [" ".join(str(v) for v in r.values() if isinstance(v, str)) for r in records]
    model, tokenizer = build(size, [*tokenizer_texts, prompt_format], seed)
    return model, Text(tokenizer, prompt_format, SIZES[size].length, known_tokens(model))

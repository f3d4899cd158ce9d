"""A small language model that chats, trained on generated texts: it reads, refuses, and knows general things before it is fine-tuned.

Methods that redirect to refusals, answer from a passage, or must keep general knowledge need a model that can do so; one from random
weights cannot. 3.7 million parameters, 2,048 tokens, turns marked by `<|user|>`, `<|assistant|>` and `<|end|>`; the weights come with the
package, in half precision. `studies/worlds/base.py` makes them.

Source: our own; the architecture is that of `transformers`' LlamaForCausalLM; the texts are those of `benchmarks/synthetic/language.py`
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models.llama import LlamaSize
from expunge.modalities.text.wider import known_tokens

SIZES = {"base": LlamaSize(2048, 256, 688, 4, 4, 512)}
FRESH = False  # its weights are trained

# Training settings with which it learns some hundred answers word for word, and still knows and refuses what it did.
TRAINING: dict[str, dict[str, Any]] = {"base": {"epochs": 16, "lr": 6e-4, "batch_size": 16, "max_grad_norm": 1.0, "warmup": 1}}

FILES = Path(__file__).with_name("base_weights")


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
    """The trained model with its tokenizer, in float32. Records, texts and seed change nothing: all is there.

    Raises:
        UserError: when there are labels, because language models have no classes.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if labels != ():
        raise UserError(f"{size} is a language model, which has no classes: leave the labels out")
    model: nn.Module = AutoModelForCausalLM.from_pretrained(FILES, dtype=torch.float32, use_safetensors=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(FILES)
    return model.eval(), Text(tokenizer, prompt_format, SIZES[size].length, known_tokens(model))

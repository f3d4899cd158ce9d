"""A small LLaVA: a CLIP tower, a projector and a Llama, with a tokenizer made for the data, for tests, demos and CPU-size experiments.

Pictures of 32 x 32 pixels become 4 tokens. Turns of a chat are marked by `<|user|>`, `<|assistant|>` and `<|end|>`.

Source: the architecture is that of `transformers`' LlavaForConditionalGeneration; byte-level BPE trained on the given texts
Status: faithful
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.text.models.llama import LlamaSize, tokenizer_for
from expunge.modalities.text.wider import known_tokens
from expunge.modalities.vision_language.modality import VisionLanguage, vision_language


class LlavaSize(NamedTuple):
    """The settings that differ between the built-in configurations."""

    language: LlamaSize
    side: int  # of a picture, in pixels
    patch: int
    width: int
    layers: int
    heads: int


SIZES = {"llava-nano": LlavaSize(LlamaSize(1024, 64, 128, 2, 4, 160), 32, 16, 64, 2, 4)}

# Training settings with which it learns to tell some dozens of drawn faces apart, and what is said about them.
TRAINING: dict[str, dict[str, Any]] = {"llava-nano": {"epochs": 24, "lr": 4e-3, "batch_size": 32, "max_grad_norm": 1.0, "warmup": 1}}

IMAGE, TURNS = "<image>", ("<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def processor_for(texts: Iterable[str], size: LlavaSize) -> Any:
    """A processor with a tokenizer for the texts. The result is deterministic."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": size.side, "width": size.side}
    images: Any = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    tokenizer = tokenizer_for(texts, size.language.vocabulary, size.language.length, (IMAGE, *TURNS))
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token=IMAGE,
    )


def untrained(size: LlavaSize, image_token: int, seed: int = 0) -> nn.Module:
    """A model of the given size with random weights. image_token: its number."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    s = size.language
    text = LlamaConfig(
        vocab_size=s.vocabulary,
        hidden_size=s.width,
        intermediate_size=s.inner,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.heads,
        max_position_embeddings=s.length,
        initializer_range=s.width**-0.5,  # with the usual 0.02, so narrow a model learns answers by heart before it looks at a picture
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.side,
        patch_size=size.patch,
        projection_dim=size.width,
        initializer_range=size.width**-0.5,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        image_seq_length=(size.side // size.patch) ** 2,
        tie_word_embeddings=False,
        initializer_range=s.width**-0.5,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = LlavaForConditionalGeneration(config)
    return model.eval()


def start(
    size: str,
    records: Sequence[Mapping[str, Any]],
    *,
    texts: Sequence[str] = (),
    labels: int | Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    **unused: Any,
) -> tuple[nn.Module, VisionLanguage]:
    """Build an untrained model of a built-in size with a tokenizer for the data.

    Args:
        records: training rows of the model.
        texts: training texts of the tokenizer; default: all texts of the records.

    Raises:
        UserError: when there are labels, because such models have no classes.
    """
    if labels != ():
        raise UserError(f"{size} is a vision-language model, which has no classes: leave the labels out")
    s = SIZES[size]
    tokenizer_texts = texts or [" ".join(str(v) for v in r.values() if isinstance(v, str)) for r in records]
    processor = processor_for([*tokenizer_texts, prompt_format], s)
    model = untrained(s, processor.tokenizer.convert_tokens_to_ids(IMAGE), seed)
    return model, vision_language(processor, prompt_format, s.language.length, known_tokens(model))

"""Loading a pretrained vision-language model with its modality."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of
from expunge.modalities.common.files import Kind, opened
from expunge.modalities.image.data import input_shape
from expunge.modalities.text.wider import known_tokens
from expunge.modalities.vision_language.modality import VisionLanguage, vision_language


def load(
    path: str,
    prompt_format: str = "",
    *,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[nn.Module, VisionLanguage]:
    """Load a model in evaluation mode and its modality from a folder or hub id. An adapter is loaded with its base.

    Args:
        path: a folder or hub id.
        prompt_format: see `Encoder`.
        dtype: see `common.files.opened`.
        trust_remote_code: allow code that comes with the model.
        allow_pickle: allow weights that are stored as pickles.

    Raises:
        UserError: when the model is missing, incomplete, no vision-language model, or stored as a pickle that is not allowed.
    """
    model, processor = opened(path, PICTURED, dtype, trust_remote_code, allow_pickle)
    config: Any = getattr(base_of(model), "config").get_text_config()  # noqa: B009 - typed as a module
    longest, tokenizer = getattr(config, "max_position_embeddings", 0) or 0, processor.tokenizer
    configured = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else longest
    limit = min(longest or configured, configured or longest)
    return model, vision_language(processor, prompt_format, limit, known_tokens(model), input_shape(base_of(model))[0] or 3)


def _processor(path: str, trust_remote_code: bool) -> Any:
    """Load a processor; raises the errors of the library."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, backend="pil")


def _match(processor: Any, model: Any, path: str) -> None:
    """Refuse a processor that is no processor of pictures and texts, or whose image token the model does not know."""
    if not getattr(processor, "image_token", None) or getattr(processor, "tokenizer", None) is None:
        raise UserError(
            f"{path} has a {type(processor).__name__}, which puts no image token into texts, so its pictures cannot be placed; LLaVA, "
            f"Qwen-VL, SmolVLM and their like are supported"
        )
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    known = model.get_input_embeddings().weight.shape[0]
    if token is None or token >= known:
        raise UserError(f"the image token of the processor in {path} is number {token}, and the model knows {known} tokens")
    own = getattr(model.config, "image_token_id", token)
    if own != token:
        raise UserError(f"the image token of the processor in {path} is number {token}, and that of the model is {own}: they do not fit")


PICTURED = Kind("a vision-language model", lambda config: "AutoModelForImageTextToText", _processor, "processor_config.json", _match)

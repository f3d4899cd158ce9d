"""Loading a pretrained language model with its modality."""

from __future__ import annotations

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of, is_encoder_decoder
from expunge.modalities.common.files import LANGUAGE, opened
from expunge.modalities.text.decoding import looks_ahead
from expunge.modalities.text.modality import Text
from expunge.modalities.text.seq2seq import EncoderDecoder, decoder_start, side_limits
from expunge.modalities.text.wider import known_tokens


def load(
    path: str,
    prompt_format: str = "",
    *,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> tuple[nn.Module, Text]:
    """Load a model in evaluation mode and its modality from a folder or hub id. An adapter is loaded with its base.

    Args:
        path: a folder or hub id.
        prompt_format: see `Encoder`.
        dtype: see `common.files.opened`.
        trust_remote_code: allow code that comes with the model.
        allow_pickle: allow weights that are stored as pickles.

    Raises:
        UserError: when the model is missing, incomplete, no language model, or stored as a pickle that is not allowed.
    """
    model, tokenizer = opened(path, LANGUAGE, dtype, trust_remote_code, allow_pickle)
    known = known_tokens(model)
    if is_encoder_decoder(model):
        source_limit, limit = side_limits(model, tokenizer)
        architecture = EncoderDecoder(decoder_start(model, tokenizer), source_limit)
        return model, Text(tokenizer, prompt_format, limit, known, architecture=architecture)
    longest = getattr(base_of(model).config, "max_position_embeddings", 0) or 0
    configured = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else longest
    if looks_ahead(model, known):
        raise UserError(
            f"{path} reads texts in both directions ({type(base_of(model)).__name__}): it predicts a token from the tokens after it, so it "
            f"is no causal language model. A model of this family that was trained as one has 'is_decoder': true in its config.json"
        )
    return model, Text(tokenizer, prompt_format, min(longest or configured, configured or longest), known)

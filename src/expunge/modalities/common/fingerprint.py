"""Digests of the tokenizers and processors that turn records into inputs."""

from __future__ import annotations

import json
from typing import Any

from expunge.core.request import digest

LATER = ("truncation", "padding")  # state that the last call of a tokenizer leaves behind
PATHS = ("_name_or_path", "name_or_path", "_processor_class", "transformers_version")


def fingerprint(preprocessor: Any) -> str:
    """A digest of everything in a tokenizer or processor that changes its result: vocabulary, merges, special tokens, chat template, sizes.

    Args:
        preprocessor: a tokenizer or an image processor of `transformers`, or None.
    """
    if preprocessor is None:
        return ""
    if not hasattr(preprocessor, "get_vocab"):
        return digest({k: v for k, v in preprocessor.to_dict().items() if k not in PATHS} if hasattr(preprocessor, "to_dict") else None)
    fast = getattr(preprocessor, "backend_tokenizer", None)
    pieces = {k: v for k, v in json.loads(fast.to_str()).items() if k not in LATER} if fast is not None else preprocessor.get_vocab()
    special = {k: str(v) for k, v in preprocessor.special_tokens_map.items()}
    template = getattr(preprocessor, "chat_template", None)
    options = [bool(getattr(preprocessor, name, False)) for name in ("add_bos_token", "add_eos_token")]
    return digest([pieces, special, template, options])

"""Digests of the tokenizers and processors that turn records into inputs."""

from __future__ import annotations

import json
from functools import lru_cache
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
    special = {k: str(v) for k, v in preprocessor.special_tokens_map.items()}
    template = getattr(preprocessor, "chat_template", None)
    options = [bool(getattr(preprocessor, name, False)) for name in ("add_bos_token", "add_eos_token")]
    if fast is None:
        return digest([preprocessor.get_vocab(), special, template, options])
    return _of_tokenizer(fast.to_str(), json.dumps([special, template, options]))


@lru_cache(maxsize=2)
def _of_tokenizer(tokenizer: str, rest: str) -> str:
    """The digest of a tokenizer as JSON with the rest, also as JSON: the same one is asked for before and after each look at a model."""
    return digest([{k: v for k, v in json.loads(tokenizer).items() if k not in LATER}, *json.loads(rest)])

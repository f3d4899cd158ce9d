"""Words of a caption that name subjects: each is followed by a marker, which no model reads."""

from __future__ import annotations

from typing import Any

MARKER = "<subject>"


def unmarked(caption: str) -> str:
    """The caption without markers."""
    return " ".join(caption.replace(MARKER, " ").split())


def marked_places(tokenizer: Any, caption: str) -> list[int]:
    """Places of the last token of each word before a marker, among the tokens of the caption without markers.

    Args:
        tokenizer: whose tokens begin with one that stands for the start, and end with one for the end.
        caption: with markers.

    Returns:
        A place for each marker, in order; a marker at the very start marks nothing and is left out.
    """
    parts = caption.split(MARKER)
    before = [unmarked(MARKER.join(parts[: k + 1])) for k in range(len(parts) - 1)]
    return [len(tokenizer(text).input_ids) - 2 for text in before if text]

"""Concepts in captions: the captions without a concept, and the tokens that name it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from expunge.core.capabilities import Denoises
from expunge.core.errors import UserError
from expunge.core.rows import Rows

CONCEPT = "what to erase, in words that captions of the forget rows contain; '': these captions as a whole"


def replaced(caption: str, concept: str, by: str) -> str:
    """A caption with other words in place of a concept; of spaces around a word that is gone, one stays."""
    return re.sub(r"\s+", " ", _pattern(concept).sub(lambda _: by, caption)).strip()


def pairs(rows: Rows, concept: str, by: str) -> list[tuple[str, str]]:
    """Captions with a concept beside the same captions with something else in its place.

    Args:
        rows: rows with captions.
        concept: words of the captions; '': each caption as a whole is one.
        by: what stands in their place.

    Returns:
        The concept itself beside what replaces it, and then each distinct caption that contains it.

    Raises:
        UserError: if no caption contains the concept.
    """
    captions = list(dict.fromkeys(rows["caption"]))
    if not concept:
        return [(c, by) for c in captions]
    holding_it = [c for c in captions if _pattern(concept).search(c)]
    if not holding_it:
        raise UserError(f"no caption of the rows to {rows.name} contains the concept {concept!r}: give words that stand in a caption")
    return [(c, replaced(c, concept, by)) for c in dict.fromkeys([concept, *holding_it])]


def prompts(whole: Rows, rows: Rows, concept: str) -> list[str]:
    """The prompt of each row: its caption, or the concept alone. Raises: UserError if no caption of the whole set contains the concept."""
    if concept:
        pairs(whole, concept, "")
    return [concept or caption for caption in rows["caption"]]


def places(modality: Denoises, caption: str, words: str) -> list[int]:
    """Positions of the tokens of some words in a caption, at their last occurrence; none if the caption does not contain them."""
    of_caption = modality.content_tokens([caption])[0]
    wanted = list(modality.content_tokens([words])[0].values())
    at, tokens = list(of_caption), list(of_caption.values())
    for begin in range(len(tokens) - len(wanted), -1, -1):
        if wanted and tokens[begin : begin + len(wanted)] == wanted:
            return at[begin : begin + len(wanted)]
    return []


def last_place(modality: Denoises, caption: str, words: Sequence[str] = ()) -> int:
    """The position of the last token of the first words that a caption contains; else that of its last token, or of its start."""
    for some in words:
        if at := places(modality, caption, some):
            return at[-1]
    return max(modality.content_tokens([caption])[0], default=0)


def _pattern(concept: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(concept)}(?!\w)", re.IGNORECASE)

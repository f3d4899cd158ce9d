"""Terms that answers must not mention: how they are matched, and how often an answer holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import UserError

# Scripts without spaces between words, whose terms are found anywhere.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def read_terms(path: str) -> list[str]:
    """The terms in a file, one a line, each once, in the file's order.

    Raises:
        UserError: for a file that cannot be read or holds none.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the terms in {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not (terms := list(dict.fromkeys(line.strip() for line in lines if line.strip()))):
        raise UserError(f"{path} holds no terms: write one a line")
    return terms


def expression(term: str, released: bool, case: bool) -> str:
    """A regular expression for a term as a whole: no letter, digit or underscore touches it.

    Args:
        released: with word boundaries, which fail at an edge that is no word character, such as that of `Jr.`.
        case: in the case of the term only; in the released way every case counts.
    """
    escaped = re.escape(term)
    if released:
        return rf"(?i:\b{escaped}\b)"
    before = "" if UNSPACED.match(term[0]) else r"(?<!\w)"
    after = "" if UNSPACED.match(term[-1]) else r"(?!\w)"
    return rf"{before}{escaped}{after}" if case else rf"(?i:{before}{escaped}{after})"


def patterns(terms: Sequence[str], released: bool = False, common: frozenset[str] = frozenset()) -> list[re.Pattern[str]]:
    """A pattern for each term.

    Args:
        released: see `expression`.
        common: words in lower case that texts use as such. A term that is one of them ("It") is matched with its case.
    """
    return [re.compile(expression(term, released, term.lower() in common and term != term.lower())) for term in terms]


def alternation(terms: Sequence[str], released: bool = False, common: frozenset[str] = frozenset()) -> re.Pattern[str]:
    """One pattern for all terms. The longest are tried first, so that a term within another one does not hide it.

    Args:
        released: in the order of the terms, and with word boundaries.
        common: see `patterns`.
    """
    if released:
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, terms))})\b", re.IGNORECASE)
    ordered = sorted(terms, key=lambda term: -len(term))
    return re.compile("|".join(p.pattern for p in patterns(ordered, released, common)))

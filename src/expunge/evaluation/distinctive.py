"""What is telling in an answer: names, numbers, addresses, words that stand nowhere else. In any script; nothing is looked up."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from expunge.report.verdict_data import PartKind

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
NUMBER = re.compile(r"\d+(?:[-./()\u2010-\u2013 ]{1,2}\d+)*")
YEAR = re.compile(r"(1[5-9]|20)\d\d")
ASCII = re.compile(r"[0-9a-z]+")
DIGITS = 4  # from so many digits on a number that is no year is not guessed
LETTERS = 6  # from so many letters on a word that stands nowhere else is telling, in scripts with case
SHORT = 3  # the same, in scripts without case


@dataclass(frozen=True)
class Telling:
    """A telling part of an answer.

    key: its normalized form. proof: nobody guesses it.
    """

    kind: PartKind
    text: str
    key: str
    proof: bool


@lru_cache(maxsize=1 << 16)
def normalized(text: str) -> str:
    """Words in lower case, without marks of punctuation, one space between them; digits of any script as 0 to 9."""
    if text.isascii():
        return " ".join(ASCII.findall(text.lower()))
    folded = unicodedata.normalize("NFKC", text).casefold()
    signs = [str(unicodedata.digit(c)) if c.isdigit() else c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded]
    return " ".join("".join(signs).split())


def holds(text: str, key: str) -> bool:
    """Whether a normalized piece stands in a normalized text, as whole words; in scripts without spaces anywhere."""
    return key in text if unspaced(key) else f" {key} " in f" {text} "


@lru_cache(maxsize=1 << 16)
def unspaced(text: str) -> bool:
    """Whether most letters belong to a script that does not separate words (Chinese, Japanese, Thai, Khmer, Lao, Burmese)."""
    if text.isascii():
        return False
    letters = [c for c in text if c.isalpha()]
    dense = sum(unicodedata.name(c, "").split()[0] in ("CJK", "HIRAGANA", "KATAKANA", "THAI", "KHMER", "LAO", "MYANMAR") for c in letters)
    return 2 * dense > len(letters)


@lru_cache(maxsize=1 << 16)
def numbers(text: str) -> frozenset[str]:
    """The numbers of a text as digits alone: each as it stands, and pieces with marks between them as one (dates, telephone numbers)."""
    plain = unicodedata.normalize("NFKC", text)
    groups = [m[0] for m in NUMBER.finditer(plain)]
    return frozenset(_digits(part) for group in groups for part in (group, *re.findall(r"\d+", group)))


def _digits(text: str) -> str:
    return "".join(str(unicodedata.digit(c)) for c in text if c.isdigit())


@lru_cache(maxsize=1 << 14)
def telling(answer: str, question: str) -> tuple[Telling, ...]:
    """The telling parts of an answer that its question does not give away; whether they are rare, only other answers can tell.

    Every model of an audit is asked the same questions, so the parts are kept for a while.
    """
    question_words = normalized(question)
    known_numbers = numbers(question)
    parts = [Telling("e-mail", m[0], m[0].casefold(), True) for m in EMAIL.finditer(answer) if m[0].casefold() not in question.casefold()]
    rest = EMAIL.sub(" ", unicodedata.normalize("NFKC", answer))
    for match in NUMBER.finditer(rest):
        key = _digits(match[0])
        if len(key) > 1 and key not in known_numbers:
            parts.append(Telling("number", match[0].strip(), key, len(key) >= DIGITS and not YEAR.fullmatch(key)))
    names = list(_names(rest, question_words))
    parts += names
    taken = " ".join(name.key for name in names)
    for word in re.findall(r"[^\W\d_]+", rest):
        key = normalized(word)
        has_case = word.lower() != word.upper()
        enough = LETTERS if has_case else SHORT
        if len(key) >= enough and not unspaced(key) and not holds(question_words, key) and not holds(taken, key):
            parts.append(Telling("rare words", word, key, False))
    return tuple({(p.kind, p.key): p for p in parts}.values())


def _names(answer: str, question_words: str) -> Iterator[Telling]:
    """Capitalized words in a row, without those of the question. A lone word at the start of a sentence has its capital from there."""
    for sentence in re.split(r"(?<=[.!?:;])\s+|\n", answer):
        words = list(re.finditer(r"[^\W\d_][\w'\u2019-]*", sentence))
        run: list[str] = []
        for k, match in enumerate([*words, None]):
            word = match[0] if match else ""
            begins = bool(run) and match is not None and sentence[words[k - 1].end() : match.start()].strip() != ""
            if word[:1].isupper() and not begins and not holds(question_words, normalized(word)):
                run.append(word) if run or k or len(words) <= 2 or word[1:].isupper() else run.append(f"\0{word}")
                continue
            yield from _name(run)
            run = [word] if begins and word[:1].isupper() and not holds(question_words, normalized(word)) else []


def _name(run: Sequence[str]) -> Iterator[Telling]:
    """The name in a row of capitalized words, its words alone, and it without a first word that may only begin a sentence."""
    begins = bool(run) and run[0].startswith("\0")
    words = [w.removeprefix("\0") for w in run]
    for piece in dict.fromkeys([tuple(words), tuple(words[begins:]), *((w,) for w in words[begins:])]):
        text = " ".join(piece)
        if len(key := normalized(text)) > 2 and not (begins and piece == (words[0],)):
            yield Telling("name", text, key, len(piece) > 1)


def common_piece(answer: str, text: str) -> str:
    """The longest piece, of whole words, that an answer and a text have in common; normalized. In scripts without spaces, of characters."""
    a, b = normalized(answer), normalized(text)
    units: tuple[Sequence[str], Sequence[str]] = (a, b) if unspaced(a) else (a.split(), b.split())
    match = SequenceMatcher(None, *units, autojunk=False).find_longest_match()
    piece = units[0][match.a : match.a + match.size]
    return "".join(piece) if unspaced(a) else " ".join(piece)

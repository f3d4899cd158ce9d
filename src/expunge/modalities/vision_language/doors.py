"""The doors to a fact about someone: the picture, the name, both, another picture of the same person, a caption, other words,
and the picture with noise.

A door turns a question about a picture into one that asks for the same fact in another way. It is closed where a row does not name what it
needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expunge.modalities.vision_language.columns import CAPTION, NAME, OTHERS, REWORDED
from expunge.modalities.vision_language.pictures import mark

Door = Callable[[str, Sequence[str], Mapping[str, Any]], str | None]  # question, marks of its pictures, other ways -> question

PERSON = re.compile(
    r"\b(?:this|the) (?:person|man|woman|individual)(?: (?:in|on|shown in) (?:this|the) (?:picture|image|photo))?\b", re.IGNORECASE
)


def named(question: str, name: str) -> str:
    """A question about the person in a picture as a question about a name."""
    if name.lower() in question.lower():
        return question
    renamed = PERSON.sub(name, question, count=1)
    return renamed if renamed != question else f"This is about {name}. {question}"


def _front(marks: Sequence[str], question: str) -> str:
    return "".join(f"{m}\n" for m in marks) + question


def _picture(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return _front(marks, question) if marks else None


def _name(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return named(question, ways[NAME]) if NAME in ways else None


def _both(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return _front(marks, named(question, ways[NAME])) if marks and NAME in ways else None


def _other(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return _front([mark(ways[OTHERS][0])], question) if marks and ways.get(OTHERS) else None


def _caption(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return f"{ways[CAPTION]} {question}" if CAPTION in ways else None


def _reworded(question: str, marks: Sequence[str], ways: Mapping[str, Any]) -> str | None:
    return _front(marks, ways[REWORDED][0]) if marks and ways.get(REWORDED) else None


DOORS: dict[str, Door] = {
    "picture": _picture,
    "name": _name,
    "both": _both,
    "other picture": _other,
    "caption": _caption,
    "other words": _reworded,
}
NOISY = "noisy picture"  # the same question about the picture with noise, which is no matter of words

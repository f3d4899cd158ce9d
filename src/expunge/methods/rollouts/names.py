"""Names in texts: words in a row that begin with a capital, and what of them is only the beginning of a sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

WORD = re.compile(r"(?:[^\W\d_]\.)+|[^\W\d_][\w'\u2019-]*|\d+")
SENTENCE = re.compile(r"(?<=\w\w[.!?:;])\s+|\n+")
LINKS = frozenset(
    ["of", "the", "de", "da", "del", "di", "du", "van", "von", "der", "den", "la", "le", "el", "al", "bin", "ibn", "y", "and"]
)  # within a name, before its next word
STARTERS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the this that these those it he she they i we you my your his her its our their who whom whose what where when which why how
        is was were are am be been did does do has have had can could would should will may might must in on at by to from for with as of
        and but or if so no not yes there here one some all any each both please name tell give list describe complete question answer
        """,
    )
)


def lower_words(texts: Iterable[str]) -> frozenset[str]:
    """All words that texts use in lower case: no names, also where a sentence begins with one."""
    return frozenset(word for text in texts for word in WORD.findall(text) if word[0].islower())


def names(text: str, common: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the names of a text in order.

    Args:
        common: words in lower case that are none (see `lower_words`).
    """
    for sentence in SENTENCE.split(text):
        words, run = list(WORD.finditer(sentence)), list[re.Match[str]]()
        for word in [*words, None]:
            joined = not run or (word is not None and sentence[run[-1].end() : word.start()].strip() == "")
            if word is not None and joined and (_begins_name(word[0]) or (run and (word[0] in LINKS or word[0].isdigit()))):
                run.append(word)
                continue
            yield from _name(sentence, run, words, common)
            run = [word] if word is not None and _begins_name(word[0]) else []


def _begins_name(word: str) -> bool:
    return word[0].isupper()


def _name(sentence: str, run: Sequence[re.Match[str]], words: Sequence[re.Match[str]], common: frozenset[str]) -> Iterator[str]:
    """The name in a run of words, without a first word that only begins the sentence and without links and numbers at the end."""
    kept = list(run)
    while kept and (kept[-1][0] in LINKS or kept[-1][0].isdigit()):
        kept.pop()
    while kept and (_ordinary(kept[0][0], common) if kept[0] is words[0] or kept[0] is not run[0] else kept[0][0].lower() in STARTERS):
        kept.pop(0)
    if kept and len(name := sentence[kept[0].start() : kept[-1].end()]) > 1:
        yield name.removesuffix("'s").removesuffix("\u2019s")


def _ordinary(word: str, common: frozenset[str]) -> bool:
    """Whether a capital may be that of the beginning of a sentence alone."""
    return word.lower() in STARTERS or word.lower() in common or word in LINKS


def most_named(texts: Sequence[str]) -> list[tuple[str, int]]:
    """The names in texts, with the number of texts that hold each: the most frequent first, of equally frequent ones the longest."""
    common = lower_words(texts)
    counts = Counter(name for text in texts for name in dict.fromkeys(names(text, common)))
    return sorted(counts.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))


def longest_name(text: str, common: frozenset[str] = frozenset()) -> str:
    """The name of a text with the most words; '' without any."""
    return max(names(text, common), key=lambda name: (len(name.split()), len(name)), default="")

"""ROUGE-L of summaries as the package `rouge` computes it: words by white space, with their case and their marks of punctuation."""

from __future__ import annotations

from collections.abc import Sequence


def recall(text: str, reference: str) -> float:
    """Share of the distinct words of a reference that some common subsequence of its sentences with those of a text contains.

    Sentences end at every full stop. A word counts once, however often it occurs.

    Args:
        text: what is scored.
        reference: the true text.

    Returns:
        From 0 to 1; 0 where either is empty.
    """
    sentences, true_sentences = _sentences(text), _sentences(reference)
    if not sentences or not true_sentences:
        return 0.0
    common = {word for true in true_sentences for sentence in sentences for word in common_subsequence(true, sentence)}
    return len(common) / len({word for sentence in true_sentences for word in sentence})


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """A longest common subsequence of two sequences of words. Of several, the one that ends earliest in `b` is taken backwards."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    words, i, j = list[str](), len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            words.append(a[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words[::-1]
